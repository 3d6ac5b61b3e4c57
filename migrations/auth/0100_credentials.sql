-- Who can log in with what: one row for each user that user-service has announced. The name's authority is user-service.
create table credentials (
    user_id             uuid        not null,
    username            text        not null,
    -- The username as it is compared: trimmed, lowercase.
    username_key        text        not null,
    email               text        not null,
    -- PHC string (argon2id); null: this user cannot log in with a password.
    password_phc        text,
    disabled            boolean     not null default false,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    password_changed_at timestamptz,
    constraint credentials_pkey primary key (user_id),
    constraint credentials_username_key unique (username_key)
);

-- What user-service last said of a user's rights: used for logins and checks while it does not answer.
create table grants (
    user_id      uuid        not null,
    username     text        not null,
    disabled     boolean     not null,
    roles        text[]      not null,
    -- Permissions that hold everywhere.
    permissions  text[]      not null,
    -- [{"permission","resource","expiresAt"}]
    scoped       jsonb       not null,
    epoch        bigint      not null,
    -- The newest epoch heard of in an event; above `epoch`, this row is out of date.
    newest_epoch bigint      not null,
    fetched_at   timestamptz not null,
    constraint grants_pkey primary key (user_id)
);
