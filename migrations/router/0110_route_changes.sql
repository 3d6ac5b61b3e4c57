-- who changed routes and upstreams, and how: one row for each version of the whole, for as many versions as are kept
create table route_changes (
    version bigint not null,
    changed_at timestamptz not null default now(),
    -- the token's subject and client; empty: the gateway itself, at its start
    subject text not null,
    client_id text not null,
    -- [{"kind": "route" | "upstream", "id", "before": spec or null, "after": spec or null}], in the order of the changes
    changes jsonb not null,
    constraint route_changes_pkey primary key (version)
);
