-- Second factors and passkeys, and what bounds guessing at them.
create table totp (
    user_id       uuid        not null,
    -- 20 random bytes, sealed (envelope encryption).
    sealed_secret bytea       not null,
    -- Null: enrolment was begun, no code was shown yet.
    confirmed_at  timestamptz,
    -- The 30-second step of the last accepted code: each code, and each older one, is good once.
    last_step     bigint      not null default 0,
    created_at    timestamptz not null default now(),
    constraint totp_pkey primary key (user_id)
);

-- SHA-256 of each recovery code; a used one is deleted.
create table recovery_codes (
    user_id    uuid        not null,
    code_hash  bytea       not null,
    created_at timestamptz not null default now(),
    constraint recovery_codes_pkey primary key (user_id, code_hash)
);

create table passkeys (
    id            uuid        not null,
    user_id       uuid        not null,
    -- The authenticator's name of the credential.
    credential_id bytea       not null,
    -- COSE algorithm: -7 (ES256), -8 (EdDSA).
    algorithm     integer     not null,
    -- ES256: the uncompressed point; EdDSA: the 32 bytes.
    public_key    bytea       not null,
    sign_count    bigint      not null,
    backed_up     boolean     not null,
    name          text        not null,
    created_at    timestamptz not null default now(),
    last_used_at  timestamptz,
    constraint passkeys_pkey primary key (id),
    constraint passkeys_credential_id_key unique (credential_id)
);

create index passkeys_by_user on passkeys (user_id, created_at);

-- Challenges of passkey ceremonies that were answered: each is answered once. Open ones need no row, they are sealed texts.
create table used_challenges (
    challenge_hash bytea       not null,
    expires_at     timestamptz not null,
    constraint used_challenges_pkey primary key (challenge_hash)
);

create index used_challenges_by_expiry on used_challenges (expires_at);

-- How often something was tried in a window: codes of second factors, mails to one address, guesses at links and claim codes.
create table attempts (
    -- What is counted; names and addresses in it are hashed.
    key     text        not null,
    count   bigint      not null,
    ends_at timestamptz not null,
    constraint attempts_pkey primary key (key)
);

create index attempts_by_end on attempts (ends_at);
