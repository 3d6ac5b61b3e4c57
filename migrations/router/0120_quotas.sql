-- quotas by day and month: what they allow, and what was used of them in each period
create table quotas (
    id uuid not null,
    name text not null,
    -- what is counted and how much of it, as the API takes it
    spec jsonb not null,
    -- counts changes; the ETag
    revision bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint quotas_pkey primary key (id),
    constraint quotas_name_key unique (name)
);

create table quota_use (
    quota_id uuid not null,
    -- the period's first day, UTC
    period date not null,
    -- whom it counts; empty: everybody together
    client text not null,
    -- requests that gateways were given leave for; what they did not spend comes back
    used bigint not null,
    constraint quota_use_pkey primary key (quota_id, period, client),
    constraint quota_use_quota_id_fkey foreign key (quota_id) references quotas (id) on delete cascade,
    constraint quota_use_used_check check (used >= 0)
);

create index quota_use_period_idx on quota_use (period);
