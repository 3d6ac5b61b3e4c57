-- a role that changed ends the tokens that name it: one row instead of one for each holder
alter table revocations drop constraint revocations_kind_check;
alter table revocations add constraint revocations_kind_check
    check (kind in ('subject', 'session', 'client', 'key', 'role'));
