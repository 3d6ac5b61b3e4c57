-- what SCIM says of people and groups beyond Kronos's own columns; an attribute that is null there is one that was removed
alter table users add column profile jsonb not null default '{}';
alter table users add column external_id text;
alter table users add constraint users_profile_check check (jsonb_typeof(profile) = 'object');

create index users_external_id_idx on users (external_id) where external_id is not null;

alter table groups add column external_id text;

create index groups_external_id_idx on groups (external_id) where external_id is not null;
