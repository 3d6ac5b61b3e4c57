-- partitions come and go without an exclusive lock on lines: a long reader, such as a backup, must not hold up the writers

-- attaching takes a weaker lock than `create table … partition of`
create or replace function ensure_partition(wanted date) returns void
language plpgsql as $$
declare
    name text := 'lines_' || to_char(wanted, 'YYYYMMDD');
begin
    if exists (select from pg_inherits where inhparent = 'lines'::regclass and inhrelid = to_regclass(name)) then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('kronos logs partitions', 0));
    if exists (select from pg_inherits where inhparent = 'lines'::regclass and inhrelid = to_regclass(name)) then
        return;
    end if;
    execute format('create table if not exists %I (like lines including all)', name);
    execute format('alter table lines attach partition %I for values from (%L) to (%L)', name, wanted, wanted + 1);
end
$$;

-- dropping is two statements that no function can run: see services/log-service/src/store/partitions.rs
drop function drop_partitions_before(date);
