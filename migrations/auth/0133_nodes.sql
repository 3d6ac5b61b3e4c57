-- Machine identities: robots and other nodes, their keys, and the codes with which a technician lets one enrol itself.
create table nodes (
    id           uuid        not null,
    name         text        not null,
    attributes   jsonb       not null,
    disabled     boolean     not null default false,
    -- Goes up when tokens issued before must be refused.
    epoch        bigint      not null,
    created_by   text        not null,
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    -- To the minute.
    last_seen_at timestamptz,
    constraint nodes_pkey primary key (id),
    constraint nodes_name_key unique (name)
);

-- Ed25519 keys; several of one node may be good at once.
create table node_keys (
    -- RFC 7638 thumbprint: no two nodes share a key.
    key_id       text        not null,
    node_id      uuid        not null,
    public_key   bytea       not null,
    created_at   timestamptz not null,
    -- The end of its overlap with a newer one.
    good_until   timestamptz,
    disabled_at  timestamptz,
    last_used_at timestamptz,
    constraint node_keys_pkey primary key (key_id),
    constraint node_keys_node_fkey foreign key (node_id) references nodes (id) on delete cascade,
    constraint node_keys_length_check check (length(public_key) = 32)
);

create index node_keys_by_node on node_keys (node_id, created_at);

create table node_claims (
    id         uuid        not null,
    code_hash  bytea       not null,
    -- What the node will be called and what is known of it, if the technician says so.
    name       text,
    attributes jsonb       not null,
    created_by text        not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at    timestamptz,
    node_id    uuid,
    constraint node_claims_pkey primary key (id),
    constraint node_claims_code_key unique (code_hash),
    constraint node_claims_use_check check ((used_at is null) = (node_id is null))
);
