-- answers to unsafe requests that carried an Idempotency-Key, kept for its retries; no status yet means in progress
create table idempotency_keys (
    -- SHA-256 of caller, method and path: a key of one caller never meets another's
    scope bytea not null,
    key text not null,
    -- SHA-256 of the request's query and body
    fingerprint bytea not null,
    -- who works on it: a claim that timed out and was taken over cannot be completed by its first owner
    claim uuid not null,
    claimed_until timestamptz not null,
    status smallint,
    headers jsonb,
    body bytea,
    expires_at timestamptz not null,
    constraint idempotency_keys_pkey primary key (scope, key),
    constraint idempotency_keys_key_length check (char_length(key) between 1 and 255),
    constraint idempotency_keys_complete check ((status is null) = (body is null) and (status is null) = (headers is null))
);

create index idempotency_keys_expires_at_idx on idempotency_keys (expires_at);
