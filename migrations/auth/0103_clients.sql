-- OAuth clients: programs that come with an identifier and a secret. Secrets are random, so a plain SHA-256 of them is kept.
create table clients (
    client_id            text        not null,
    name                 text        not null,
    secret_hash          bytea       not null,
    -- The secret before the last rotation, while its overlap lasts.
    previous_secret_hash bytea,
    previous_valid_until timestamptz,
    grant_types          text[]      not null,
    permissions          text[]      not null,
    -- Goes up whenever tokens issued before must be refused; never below an earlier client's of the same name.
    epoch                bigint      not null,
    created_by           text        not null,
    created_at           timestamptz not null default now(),
    updated_at           timestamptz not null default now(),
    secret_rotated_at    timestamptz not null default now(),
    constraint clients_pkey primary key (client_id),
    constraint clients_previous_check check ((previous_secret_hash is null) = (previous_valid_until is null))
);

create index clients_by_age on clients (created_at desc, client_id desc);
