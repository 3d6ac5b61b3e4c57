-- People who register: kept here until the address is proved, then made in user-service.
create table registrations (
    -- Also the idempotency key under which the person is made in user-service.
    id           uuid        not null,
    username     text        not null,
    username_key text        not null,
    email        text        not null,
    email_key    text        not null,
    display_name text        not null,
    password_phc text        not null,
    -- Of the newest link; null for an address that has an account already: nothing can come of it.
    token_hash   bytea,
    language     text        not null,
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    constraint registrations_pkey primary key (id),
    constraint registrations_username_key unique (username_key),
    constraint registrations_token_key unique (token_hash)
);

create index registrations_by_email on registrations (email_key);
create index registrations_by_expiry on registrations (expires_at);

-- Who may register while registration is by invitation.
create table invitations (
    id         uuid        not null,
    code_hash  bytea       not null,
    -- If it is for one address, it was mailed there, and so proves it.
    email      text,
    created_by text        not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at    timestamptz,
    constraint invitations_pkey primary key (id),
    constraint invitations_code_key unique (code_hash)
);
