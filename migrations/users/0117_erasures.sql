-- erasures of people: whom each service is asked to forget, until all have said that they did
create table erasures (
    user_id uuid not null,
    -- by what services may know the person; null when all have forgotten them
    username text,
    email text,
    -- subject and client
    by jsonb not null,
    requested_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint erasures_pkey primary key (user_id)
);

create table erasure_parts (
    user_id uuid not null,
    service text not null,
    -- how often it has said so: twice, because what was on its way arrives later
    rounds integer not null default 0,
    acknowledged_at timestamptz,
    -- how many of what are gone, in all rounds
    removed jsonb not null default '{}',
    kept jsonb not null default '[]',
    attempts integer not null default 0,
    next_at timestamptz not null default now(),
    -- why the last attempt failed
    error text,
    constraint erasure_parts_pkey primary key (user_id, service),
    constraint erasure_parts_erasure_fkey foreign key (user_id) references erasures (user_id) on delete cascade
);

create index erasure_parts_next_idx on erasure_parts (next_at) where acknowledged_at is null;
