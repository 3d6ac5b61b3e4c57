-- events that a queue's handler has taken, inserted in the handler's own transaction, so that a second delivery is skipped
create table inbox (
    queue text not null,
    source text not null,
    id text not null,
    received_at timestamptz not null default now(),
    constraint inbox_pkey primary key (queue, source, id)
);

create index inbox_received_at_idx on inbox (received_at);
