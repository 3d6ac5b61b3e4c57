-- API keys of people and clients. Secrets are random, so a plain SHA-256 of them is kept.
create table api_keys (
    -- In the key's text, and the `sid` of the tokens that it is exchanged for.
    id           uuid        not null,
    secret_hash  bytea       not null,
    name         text        not null,
    -- A user's or a client's id.
    owner        text        not null,
    owner_kind   text        not null,
    -- At most these, and of these only what the owner holds at the time.
    permissions  text[]      not null,
    created_at   timestamptz not null,
    expires_at   timestamptz,
    -- To ten minutes.
    last_used_at timestamptz,
    revoked_at   timestamptz,
    constraint api_keys_pkey primary key (id),
    constraint api_keys_owner_check check (owner_kind in ('user', 'client'))
);

create index api_keys_by_owner on api_keys (owner, id desc) where revoked_at is null;
