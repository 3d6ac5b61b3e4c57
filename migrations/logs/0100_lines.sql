-- log lines, in one partition for each day of receipt; the store of record, from which the search index is fed
create sequence line_seq as bigint;

create table lines (
    -- given and committed in the same order: every writer holds the same advisory lock from here to its commit
    seq bigint not null default nextval('line_seq'),
    -- the UTC day of receipt, which no clock of a robot can shift
    day date not null,
    -- who the line is: the id made here, or a hash of service and client's id
    key uuid not null,
    id text not null,
    occurred_at timestamptz not null,
    received_at timestamptz not null,
    service text not null,
    level text not null,
    message text not null,
    attributes jsonb not null,
    trace_id text,
    -- what a search looks at: normalised words and attributes, see services/log-service/src/terms.rs
    terms text not null,
    constraint lines_pkey primary key (seq, day),
    constraint lines_key_unique unique (key, day),
    constraint lines_level_check check (level in ('trace', 'debug', 'info', 'warn', 'error', 'fatal'))
) partition by range (day);

create index lines_occurred_at_idx on lines (occurred_at desc, seq desc);
create index lines_trace_id_idx on lines (trace_id) where trace_id is not null;

-- makes the partition of a day; safe to call at any time, from any instance
create function ensure_partition(wanted date) returns void
language plpgsql as $$
declare
    name text := 'lines_' || to_char(wanted, 'YYYYMMDD');
begin
    if to_regclass(name) is null then
        perform pg_advisory_xact_lock(hashtextextended('kronos logs partitions', 0));
        execute format(
            'create table if not exists %I partition of lines for values from (%L) to (%L)', name, wanted, wanted + 1
        );
    end if;
end
$$;

-- drops the partitions of all days before `oldest`, and says which
create function drop_partitions_before(oldest date) returns setof text
language plpgsql as $$
declare
    name text;
begin
    for name in
        select child.relname
        from pg_inherits
        join pg_class child on child.oid = pg_inherits.inhrelid
        where pg_inherits.inhparent = to_regclass('lines')
            and child.relname < 'lines_' || to_char(oldest, 'YYYYMMDD')
        order by child.relname
    loop
        execute format('drop table if exists %I', name);
        return next name;
    end loop;
end
$$;
