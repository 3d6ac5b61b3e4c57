-- how far the search index has come, and the lines that it can't take
create table index_checkpoint (
    only_one boolean not null default true,
    -- every line up to this one is in the index or in quarantine
    seq bigint not null default 0,
    -- the Elasticsearch cluster that this is true of; another one is filled from the start
    cluster text,
    updated_at timestamptz not null default now(),
    constraint index_checkpoint_pkey primary key (only_one),
    constraint index_checkpoint_only_one check (only_one)
);

insert into index_checkpoint default values;

create table quarantine (
    id bigint generated always as identity,
    -- `index`: Elasticsearch refused it, the line itself is in lines; `kafka`: it was no log line
    origin text not null,
    -- the line's seq, or topic/partition/offset
    reference text not null,
    reason text not null,
    -- the first characters of what arrived, for `kafka`
    excerpt text,
    created_at timestamptz not null default now(),
    constraint quarantine_pkey primary key (id),
    constraint quarantine_reference_unique unique (origin, reference),
    constraint quarantine_origin_check check (origin in ('index', 'kafka'))
);

create index quarantine_created_at_idx on quarantine (created_at);
