-- A session is one login and one family of refresh tokens: this row is what every refresh compares and sets.
create table sessions (
    -- The `sid` of the session's tokens, and the family in its refresh tokens.
    id               uuid        not null,
    user_id          uuid        not null,
    client_id        text        not null,
    -- What the login's User-Agent called itself, shortened.
    device           text,
    -- Generation of the refresh token that is good now; the one before it is good for a short grace after rotated_at.
    generation       bigint      not null default 0,
    rotated_at       timestamptz not null,
    created_at       timestamptz not null,
    last_used_at     timestamptz not null,
    -- Whichever comes first: idle_expires_at moves with each refresh, expires_at never.
    idle_expires_at  timestamptz not null,
    expires_at       timestamptz not null,
    ended_at         timestamptz,
    end_reason       text,
    constraint sessions_pkey primary key (id),
    constraint sessions_generation_check check (generation >= 0),
    constraint sessions_end_check check ((ended_at is null) = (end_reason is null))
);

create index sessions_live_by_user on sessions (user_id, created_at desc) where ended_at is null;
create index sessions_by_expiry on sessions (expires_at);
