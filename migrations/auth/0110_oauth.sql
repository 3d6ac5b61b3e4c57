-- OAuth clients of every kind, refresh families of OAuth clients, and delegations: a technician acts for a robot.
alter table clients
    -- null: a public client, or one that shows a signed assertion.
    alter column secret_hash drop not null,
    alter column secret_rotated_at drop not null,
    -- Compared byte for byte.
    add column redirect_uris               text[]  not null default '{}',
    add column post_logout_redirect_uris   text[]  not null default '{}',
    add column token_endpoint_auth_method  text    not null default 'client_secret_basic',
    add column require_pkce                boolean not null default true,
    -- A JWK set (RFC 7517), or where one is read: the keys of private_key_jwt.
    add column jwks                        jsonb,
    add column jwks_uri                    text,
    -- What it may ask for beside permissions: openid, profile, email, offline_access.
    add column scopes                      text[]  not null default '{openid,profile,email,offline_access}',
    -- Audiences beside Kronos itself that its tokens may be for (RFC 8707).
    add column resources                   text[]  not null default '{}',
    -- One of ours: its tokens hold all that the user may do, and nobody is asked for consent.
    add column first_party                 boolean not null default false,
    add column id_token_signed_response_alg text   not null default 'RS256',
    -- All of its tokens must be bound to a key (RFC 9449).
    add column dpop_bound_access_tokens    boolean not null default false,
    -- SHA-256 of the token with which the client changes its own registration (RFC 7592).
    add column registration_token_hash     bytea,
    add constraint clients_auth_method_check check (token_endpoint_auth_method in
        ('client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none')),
    add constraint clients_secret_check check
        ((secret_hash is not null) = (token_endpoint_auth_method in ('client_secret_basic', 'client_secret_post'))),
    add constraint clients_keys_check check
        (token_endpoint_auth_method <> 'private_key_jwt' or jwks is not null or jwks_uri is not null),
    add constraint clients_id_token_alg_check check (id_token_signed_response_alg in ('RS256', 'ES256', 'EdDSA'));

alter table sessions
    -- The browser's login that a client's session came from; it ends with it, unless offline_access was granted.
    add column parent_id  uuid,
    -- What was granted; null: a login without OAuth, which holds all of the user's rights.
    add column scope      text[],
    add column resources  text[] not null default '{}',
    -- When and how well the person logged in (auth_time and acr of ID tokens; amr is there already).
    add column auth_time  timestamptz,
    add column acr        text,
    -- Thumbprint of the key that the refresh tokens of a public client are bound to (RFC 9449 section 5).
    add column dpop_jkt   text;

create index sessions_live_by_parent on sessions (parent_id) where parent_id is not null and ended_at is null;
create index sessions_live_by_client on sessions (client_id) where ended_at is null;

-- Somebody acts for somebody else while a ticket is open (RFC 8693): one row for each token, whose `sid` is the id.
create table delegations (
    id         uuid        not null,
    -- For whom: a robot's id, which is a client's or a node's.
    subject    text        not null,
    -- Who acts: a user's id.
    actor      text        not null,
    client_id  text        not null,
    ticket     text        not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at   timestamptz,
    constraint delegations_pkey primary key (id)
);

create index delegations_by_ticket on delegations (ticket, created_at desc);
create index delegations_by_expiry on delegations (expires_at);

-- Tickets that are closed: nobody acts under them any more.
create table closed_tickets (
    ticket    text        not null,
    closed_by text        not null,
    closed_at timestamptz not null,
    constraint closed_tickets_pkey primary key (ticket)
);
