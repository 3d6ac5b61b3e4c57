-- tokens that end before their time, inserted in the transaction that ends them, until every service's map has them
create table revocations (
    id uuid not null,
    kind text not null,
    -- user id, client id, session id or key id
    subject text not null,
    -- subject and client: the epoch below which tokens are refused; session and key: unix seconds until which it is remembered
    value bigint not null,
    created_at timestamptz not null default now(),
    -- the generation of the Redis snapshot that holds it; null or another one means: publish (again)
    published_in text,
    constraint revocations_pkey primary key (id),
    constraint revocations_kind_check check (kind in ('subject', 'session', 'client', 'key'))
);

create index revocations_published_in_idx on revocations (published_in, created_at);
create index revocations_created_at_idx on revocations (created_at);
