-- one row for each message in each group, from the broker's hand-over until its copy may be forgotten
create table deliveries (
    delivery_id bigint generated always as identity,
    group_id uuid not null,
    -- the published id; unique in a group, so a second copy from a broker is not delivered again
    message_id uuid not null,
    -- ready: due_at says from when; leased: due_at says until when; dead, settled: due_at says since when
    state text not null default 'ready',
    due_at timestamptz not null default now(),
    attempt integer not null default 0,
    priority smallint not null default 0,
    -- the current or last hand-out; a receipt names it
    lease_id uuid,
    subscriber_id uuid,
    principal text,
    -- why the last attempt failed
    reason text,
    key text,
    -- null once settled
    payload bytea,
    headers text,
    traceparent text,
    published_at timestamptz not null,
    expires_at timestamptz,
    constraint deliveries_pkey primary key (delivery_id),
    constraint deliveries_message_id_group_id_key unique (message_id, group_id),
    constraint deliveries_group_id_fkey foreign key (group_id) references consumer_groups on delete cascade,
    constraint deliveries_state_check check (state in ('ready', 'leased', 'dead', 'settled')),
    constraint deliveries_lease_check check (state <> 'leased' or (lease_id is not null and principal is not null)),
    constraint deliveries_payload_check check (state = 'settled' or payload is not null)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

create index deliveries_group_id_idx on deliveries (group_id, state);
create index deliveries_ready_idx on deliveries (group_id, priority desc, delivery_id) where state = 'ready';
create index deliveries_expires_at_idx on deliveries (expires_at) where state = 'ready' and expires_at is not null;
create index deliveries_leased_idx on deliveries (due_at) where state = 'leased';
create index deliveries_subscriber_id_idx on deliveries (subscriber_id) where state = 'leased';
create index deliveries_dead_idx on deliveries (due_at, delivery_id) where state = 'dead';
create index deliveries_settled_idx on deliveries (due_at) where state = 'settled';
