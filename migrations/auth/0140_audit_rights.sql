-- The record is found by what happened, by whom and when; and the service's own role may add to it, not change it.
create index audit_by_kind on audit (kind, sequence desc);
create index audit_by_actor on audit (actor, sequence desc);
create index audit_by_time on audit (at);

revoke update, delete, truncate, references on audit from current_user;
revoke insert, delete, truncate, references on audit_head from current_user;
