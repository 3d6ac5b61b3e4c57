-- events written in the transaction of the change that they tell of, until the broker has confirmed them
create table outbox (
    sequence bigint generated always as identity,
    routing_key text not null,
    -- the CloudEvent as it will be sent, byte for byte; text rather than jsonb, which refuses \u0000
    event text not null,
    created_at timestamptz not null default now(),
    constraint outbox_pkey primary key (sequence)
);
