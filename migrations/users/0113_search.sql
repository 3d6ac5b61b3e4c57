-- text search: a trigram index where the server has the extension; without it the list is read in its order
-- a blank before every word, so that the beginnings of words can be looked for
update users set search = ' ' || search;

do $$
declare
    extension_schema text := (
        select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_trgm');
begin
    if extension_schema is not null then
        execute format('create index users_search_idx on users using gin (search %I.gin_trgm_ops)', extension_schema);
    end if;
end
$$;

-- finer statistics: they tell a frequent text, which the list's order finds soon, from a rare one, which the index finds
alter table users alter column search set statistics 1000;
