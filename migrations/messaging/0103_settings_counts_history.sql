-- topics' further settings, counts for the ledger, and what became of each failed attempt
alter table topics
    add column max_backoff_ms bigint,
    add column retention_ms bigint,
    add column max_length bigint,
    add column ordering text not null default 'relaxed',
    -- a JSON Schema that payloads must match
    add column schema jsonb,
    -- the topic that gets a copy of each dead letter
    add column dead_letter text,
    add constraint topics_ordering_check check (ordering in ('strict', 'relaxed')),
    add constraint topics_limits_check check (max_backoff_ms > 0 and retention_ms > 0 and max_length > 0);

-- of a strict topic: not handed out before the earlier ones of its key are done
alter table deliveries add column ordered boolean not null default false;

create index deliveries_ordered_idx on deliveries (group_id, key, delivery_id)
    where ordered and state in ('ready', 'leased');

-- what happened to a topic's messages, by ten seconds; what is old is added up under '-infinity'
create table topic_counts (
    topic_id uuid not null,
    bucket timestamptz not null,
    accepted bigint not null,
    confirmed bigint not null,
    arrived bigint not null,
    delivered bigint not null,
    acknowledged bigint not null,
    dead bigint not null,
    expired bigint not null,
    constraint topic_counts_pkey primary key (topic_id, bucket),
    constraint topic_counts_topic_id_fkey foreign key (topic_id) references topics on delete cascade
);

-- attempts that failed, and replays of dead letters; deleted some time after their delivery
create table failed_attempts (
    failed_attempt_id bigint generated always as identity,
    delivery_id bigint not null,
    message_id uuid not null,
    attempt integer not null,
    outcome text not null,
    reason text,
    principal text,
    ended_at timestamptz not null default now(),
    constraint failed_attempts_pkey primary key (failed_attempt_id),
    constraint failed_attempts_outcome_check check (outcome in ('retried', 'lease_ended', 'replayed'))
);

create index failed_attempts_message_id_idx on failed_attempts (message_id);
create index failed_attempts_ended_at_idx on failed_attempts (ended_at);
