-- every query that came to /db/query, answered or refused: who asked what, and what became of it
create table query_audit (
    id uuid not null,
    at timestamptz not null default now(),
    subject text not null,
    client_id text not null,
    outcome text not null,
    -- the rule that refused it, or the SQLSTATE with which it failed
    rule text,
    line integer,
    -- in characters from 1
    column_number integer,
    -- the first 4,000 characters; the hash is of all of them
    sql text not null,
    sql_sha256 text not null,
    row_count integer,
    duration_ms integer not null,
    constraint query_audit_pkey primary key (id),
    constraint query_audit_outcome_check check (outcome in ('answered', 'cached', 'refused', 'failed'))
);

create index query_audit_at_idx on query_audit (at);
