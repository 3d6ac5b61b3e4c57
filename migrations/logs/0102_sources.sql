-- other systems that hold log lines and are asked with each search
create table sources (
    name text not null,
    url text not null,
    -- bearer token, sealed with the name as associated data; null: none
    token bytea,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint sources_pkey primary key (name),
    constraint sources_name_check check (name ~ '^[a-z0-9][a-z0-9-]{0,62}$' and name <> 'kronos')
);
