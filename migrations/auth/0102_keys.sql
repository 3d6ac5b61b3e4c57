-- Signing keys and other secrets of the service; private parts are sealed (envelope encryption), never in the clear.
create table signing_keys (
    -- RFC 7638 thumbprint of the public key.
    kid            text        not null,
    algorithm      text        not null,
    public_key     bytea       not null,
    -- PKCS#8, sealed; null once removed.
    sealed_private bytea,
    state          text        not null,
    created_at     timestamptz not null,
    activated_at   timestamptz,
    retiring_at    timestamptz,
    removed_at     timestamptz,
    constraint signing_keys_pkey primary key (kid),
    constraint signing_keys_state_check check (state in ('published', 'active', 'retiring', 'removed')),
    constraint signing_keys_private_check check ((state = 'removed') = (sealed_private is null))
);

-- At most one key signs.
create unique index signing_keys_one_active on signing_keys (algorithm) where state = 'active';

-- Symmetric secrets that all instances share, such as the one under the refresh tokens.
create table secrets (
    name       text        not null,
    sealed     bytea       not null,
    created_at timestamptz not null default now(),
    constraint secrets_pkey primary key (name)
);
