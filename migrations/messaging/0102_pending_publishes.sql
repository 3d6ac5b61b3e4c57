-- messages that were accepted (202) and wait for their broker, or for their delay to pass; deleted after the broker's confirm
create table pending_publishes (
    sequence bigint generated always as identity,
    message_id uuid not null,
    topic_id uuid not null,
    broker text not null,
    due_at timestamptz not null,
    -- a delayed message does not hold back later ones of its key
    delayed boolean not null,
    priority smallint not null,
    key text,
    payload bytea not null,
    headers text not null,
    traceparent text,
    published_at timestamptz not null,
    expires_at timestamptz,
    constraint pending_publishes_pkey primary key (sequence),
    constraint pending_publishes_message_id_key unique (message_id),
    constraint pending_publishes_topic_id_fkey foreign key (topic_id) references topics on delete cascade,
    constraint pending_publishes_broker_check check (broker in ('kafka', 'rabbit'))
);

create index pending_publishes_due_idx on pending_publishes (broker, delayed, sequence);
create index pending_publishes_delayed_idx on pending_publishes (broker, due_at) where delayed;
create index pending_publishes_barrier_idx on pending_publishes (topic_id, key) where not delayed and key is not null;
