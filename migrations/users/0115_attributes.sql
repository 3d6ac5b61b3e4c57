-- attributes of people that the administrator defines; those that are sealed can be found by keyed hashes (blind indexes)
create table attribute_schema (
    only_row boolean not null default true,
    -- name → type, whether it is required, its longest text, whether it is sealed
    attributes jsonb not null default '{}',
    version bigint not null default 1,
    updated_at timestamptz not null default now(),
    constraint attribute_schema_pkey primary key (only_row),
    constraint attribute_schema_only_row_check check (only_row),
    constraint attribute_schema_attributes_check check (jsonb_typeof(attributes) = 'object')
);

insert into attribute_schema default values;

alter table users add column attributes jsonb not null default '{}';
alter table users add constraint users_attributes_check check (jsonb_typeof(attributes) = 'object');
-- a JSON object with the sealed ones, as one envelope
alter table users add column sealed bytea;
-- of each sealed one its name, and its name with the hash of each value
alter table users add column blind text[] not null default '{}';

create index users_attributes_idx on users using gin (attributes jsonb_path_ops);
create index users_blind_idx on users using gin (blind);
-- directories ask for what has changed since
create index users_updated_at_idx on users (updated_at);

-- everything that a filter can look for a text in; without the extension everybody is looked at
do $$
declare
    extension_schema text := (
        select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_trgm');
begin
    if extension_schema is not null then
        execute format(
            'create index users_texts_idx on users using gin '
            '(lower(profile::text || '' '' || attributes::text || '' '' || email || '' '' || display_name) %I.gin_trgm_ops)',
            extension_schema);
        alter index users_texts_idx alter column 1 set statistics 1000;
    end if;
end
$$;
