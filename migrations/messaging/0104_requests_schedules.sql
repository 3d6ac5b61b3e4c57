-- messages that ask for a reply, and messages that are published at a time
create table requests (
    message_id uuid not null,
    topic_id uuid not null,
    -- who asked, and alone may read the reply
    principal text not null,
    expires_at timestamptz not null,
    created_at timestamptz not null default now(),
    reply bytea,
    reply_headers text,
    replied_by text,
    replied_at timestamptz,
    constraint requests_pkey primary key (message_id),
    constraint requests_topic_id_fkey foreign key (topic_id) references topics on delete cascade,
    constraint requests_reply_check check ((reply is null) = (replied_at is null))
);

create index requests_expires_at_idx on requests (expires_at);

create table schedules (
    schedule_id uuid not null,
    topic_id uuid not null,
    principal text not null,
    -- null: once
    cron text,
    time_zone text not null,
    next_at timestamptz not null,
    key text,
    payload bytea not null,
    headers text not null,
    priority smallint not null,
    -- how long each message waits at most, in milliseconds
    kept_ms bigint,
    created_at timestamptz not null default now(),
    last_fired_at timestamptz,
    fired bigint not null default 0,
    constraint schedules_pkey primary key (schedule_id),
    constraint schedules_topic_id_fkey foreign key (topic_id) references topics on delete cascade
);

create index schedules_next_at_idx on schedules (next_at);
create index schedules_topic_id_idx on schedules (topic_id);
