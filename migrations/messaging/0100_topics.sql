-- topics, the groups that share a topic's messages, and what is left to delete at the brokers
create table topics (
    topic_id uuid not null,
    name text not null,
    kind text not null,
    max_attempts integer not null,
    backoff_ms bigint not null,
    lease_ms bigint not null,
    priority_levels smallint not null,
    partitions integer not null,
    created_at timestamptz not null default now(),
    constraint topics_pkey primary key (topic_id),
    constraint topics_name_key unique (name),
    constraint topics_kind_check check (kind in ('stream', 'queue', 'broadcast')),
    constraint topics_settings_check check (
        max_attempts between 1 and 100 and backoff_ms >= 0 and lease_ms > 0
        and priority_levels between 1 and 10 and partitions between 1 and 64
    )
);

create table consumer_groups (
    group_id uuid not null,
    topic_id uuid not null,
    name text not null,
    -- a stream's group is read by one instance at a time, which must still be this one when it stores what it read
    reader uuid,
    reader_until timestamptz,
    created_at timestamptz not null default now(),
    constraint consumer_groups_pkey primary key (group_id),
    constraint consumer_groups_topic_id_name_key unique (topic_id, name),
    constraint consumer_groups_topic_id_fkey foreign key (topic_id) references topics on delete cascade
);

-- where a stream's group goes on; moved in the transaction that stores what was read, so nothing is skipped or read twice
create table stream_positions (
    group_id uuid not null,
    partition integer not null,
    next_offset bigint not null,
    constraint stream_positions_pkey primary key (group_id, partition),
    constraint stream_positions_group_id_fkey foreign key (group_id) references consumer_groups on delete cascade
);

-- who listens now, for the count in GET /queues; an instance that was killed leaves rows that grow old
create table subscribers (
    subscriber_id uuid not null,
    group_id uuid not null,
    instance_id uuid not null,
    seen_at timestamptz not null default now(),
    constraint subscribers_pkey primary key (subscriber_id),
    constraint subscribers_group_id_fkey foreign key (group_id) references consumer_groups on delete cascade
);

create index subscribers_group_id_idx on subscribers (group_id);
create index subscribers_instance_id_idx on subscribers (instance_id);

-- queues, exchanges and Kafka topics of deleted topics, until the broker has deleted them too
create table retired_objects (
    object_kind text not null,
    name text not null,
    retired_at timestamptz not null default now(),
    constraint retired_objects_pkey primary key (object_kind, name),
    constraint retired_objects_object_kind_check check (object_kind in ('kafka_topic', 'rabbit_queue', 'rabbit_exchange'))
);
