-- the gateway's routes and upstreams: data, which every instance compiles into a table that it swaps whole
create table upstreams (
    id uuid not null,
    name text not null,
    -- instances and policies, as the API takes them
    spec jsonb not null,
    -- counts changes; the ETag
    revision bigint not null default 1,
    -- the URL that the first start wrote here, for as long as nobody has edited the upstream
    seeded_url text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint upstreams_pkey primary key (id),
    constraint upstreams_name_key unique (name)
);

create table routes (
    id uuid not null,
    name text not null,
    upstream_id uuid not null,
    -- match and policies, as the API takes them
    spec jsonb not null,
    revision bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint routes_pkey primary key (id),
    constraint routes_name_key unique (name),
    constraint routes_upstream_id_fkey foreign key (upstream_id) references upstreams (id)
);

create index routes_upstream_id_idx on routes (upstream_id);

-- one row: the version of the whole; its lock lets one change at a time be checked against all other routes
create table route_table (
    singleton boolean not null default true,
    version bigint not null,
    constraint route_table_pkey primary key (singleton),
    constraint route_table_singleton check (singleton)
);

insert into route_table (version) values (0);

-- what a first start has created, so that a deleted default does not come back
create table seeds (
    kind text not null,
    name text not null,
    created_at timestamptz not null default now(),
    constraint seeds_pkey primary key (kind, name),
    constraint seeds_kind_check check (kind in ('upstream', 'route'))
);
