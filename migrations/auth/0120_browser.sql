-- Logins of browsers, authorization codes, pushed requests, consents, device codes, links to other providers.

-- A browser that is logged in: the cookie belongs to this row, life and end are those of the session.
create table browser_sessions (
    session_id uuid        not null,
    -- SHA-256 of the cookie's value.
    key_hash   bytea       not null,
    auth_time  timestamptz not null,
    amr        text[]      not null,
    constraint browser_sessions_pkey primary key (session_id),
    constraint browser_sessions_key_hash_key unique (key_hash),
    constraint browser_sessions_session_fkey foreign key (session_id) references sessions (id) on delete cascade
);

-- A row stays for a day after its use, so that a second use is known as one, and what the first brought is revoked.
create table authorization_codes (
    -- SHA-256.
    code_hash          bytea       not null,
    client_id          text        not null,
    user_id            uuid        not null,
    browser_session_id uuid        not null,
    redirect_uri       text        not null,
    -- S256; null only for a client that is registered without PKCE.
    code_challenge     text,
    scope              text[]      not null,
    resources          text[]      not null,
    nonce              text,
    auth_time          timestamptz not null,
    amr                text[]      not null,
    -- Thumbprint of the key that the client said it will show (RFC 9449 section 10).
    dpop_jkt           text,
    created_at         timestamptz not null,
    expires_at         timestamptz not null,
    used_at            timestamptz,
    -- The session that the first use began.
    session_id         uuid,
    constraint authorization_codes_pkey primary key (code_hash)
);

create index authorization_codes_by_expiry on authorization_codes (expires_at);

-- RFC 9126: authorization requests that clients left here beforehand.
create table pushed_requests (
    -- SHA-256 of the random part of the request_uri.
    reference_hash bytea       not null,
    client_id      text        not null,
    -- Form-encoded.
    parameters     text        not null,
    expires_at     timestamptz not null,
    used_at        timestamptz,
    constraint pushed_requests_pkey primary key (reference_hash)
);

create index pushed_requests_by_expiry on pushed_requests (expires_at);

-- What a user lets a client do.
create table consents (
    user_id    uuid        not null,
    client_id  text        not null,
    scope      text[]      not null,
    granted_at timestamptz not null,
    constraint consents_pkey primary key (user_id, client_id)
);

create index consents_by_client on consents (client_id);

-- RFC 8628: devices that wait for somebody to let them in.
create table device_codes (
    -- SHA-256.
    device_code_hash  bytea       not null,
    -- Without its hyphen.
    user_code         text        not null,
    client_id         text        not null,
    scope             text[]      not null,
    resources         text[]      not null,
    created_at        timestamptz not null,
    expires_at        timestamptz not null,
    -- Grows by 5 s with each poll that comes too early.
    interval_seconds  integer     not null,
    last_polled_at    timestamptz,
    state             text        not null default 'pending',
    user_id           uuid,
    auth_time         timestamptz,
    amr               text[],
    constraint device_codes_pkey primary key (device_code_hash),
    constraint device_codes_user_code_key unique (user_code),
    constraint device_codes_state_check check (state in ('pending', 'approved', 'denied', 'used')),
    constraint device_codes_user_check check ((state in ('approved', 'used')) = (user_id is not null))
);

create index device_codes_by_expiry on device_codes (expires_at);

-- A user's accounts at other identity providers. Only a login there with this subject opens the account here.
create table external_links (
    provider   text        not null,
    -- The provider's own, unchanging name of the account; never an e-mail address.
    subject    text        not null,
    user_id    uuid        not null,
    -- What the account is called there, to show to its owner.
    label      text        not null,
    linked_at  timestamptz not null,
    last_used_at timestamptz,
    constraint external_links_pkey primary key (provider, subject),
    constraint external_links_one_per_provider unique (user_id, provider)
);
