//! Every way out of the sandbox that is known to us, tried: each must be refused, by the rule that we think refuses it,
//! and nothing may have changed. Sources: published bypasses of other products, and our own ideas.

use serde_json::json;
use sqlx::PgPool;

use crate::harness::Harness;

/// The attack, and the rule that must refuse it; empty: any.
const ATTACKS: &[(&str, &str)] = &[
    // A second statement, after the first or after a COMMIT; hidden behind comments.
    ("select 1; delete from users.probe", "one_statement"),
    ("commit; delete from users.probe", "one_statement"),
    ("select 1; commit; insert into users.probe values (9)", "one_statement"),
    ("/* harmless */ commit; /* */ delete from users.probe --", "one_statement"),
    ("select 1;; delete from users.probe", "one_statement"),
    ("rollback; delete from users.probe", "one_statement"),
    // Another kind of statement; comments, brackets and case before it.
    ("delete from users.probe", "statement_kind"),
    ("-- select\ndelete from users.probe", "statement_kind"),
    ("/* select */ delete from users.probe", "statement_kind"),
    ("/* /* nested */ */ DeLeTe from users.probe", "statement_kind"),
    ("insert into users.probe values (9)", "statement_kind"),
    ("update users.probe set name = 'x'", "statement_kind"),
    ("truncate users.probe", "statement_kind"),
    ("drop table users.probe", "statement_kind"),
    ("alter table users.probe add column x int", "statement_kind"),
    ("alter role kronos_reader superuser", ""),
    ("create table users.x (a int)", "statement_kind"),
    ("create table users.x as select 1", "statement_kind"),
    ("create temp table x (a int)", "statement_kind"),
    ("create function f() returns int language sql as 'select 1'", "statement_kind"),
    ("create extension dblink", "statement_kind"),
    ("grant select on users.probe to public", "statement_kind"),
    ("merge into users.probe p using users.probe q on true when matched then delete", "statement_kind"),
    ("vacuum users.probe", "statement_kind"),
    ("analyze users.probe", "statement_kind"),
    ("copy users.probe to '/tmp/kronos-probe'", "statement_kind"),
    ("copy (select 1) to program 'id'", "statement_kind"),
    ("copy users.probe from program 'id'", "statement_kind"),
    ("do $$ begin delete from users.probe; end $$", ""),
    ("do 'begin delete from users.probe; end'", ""),
    ("call users.f()", "statement_kind"),
    ("listen kronos", "statement_kind"),
    ("notify kronos", "statement_kind"),
    ("load 'dblink'", ""),
    ("lock table users.probe", ""),
    ("checkpoint", ""),
    ("discard all", "statement_kind"),
    ("prepare x as delete from users.probe", "statement_kind"),
    ("execute x", "statement_kind"),
    ("deallocate all", "statement_kind"),
    ("declare c cursor for select 1", "statement_kind"),
    ("fetch all from kronos_query", "statement_kind"),
    ("close kronos_query", "statement_kind"),
    ("savepoint a", "statement_kind"),
    ("rollback", "statement_kind"),
    ("begin read write", "statement_kind"),
    ("set transaction read write", "statement_kind"),
    ("set session characteristics as transaction read write", ""),
    ("set default_transaction_read_only = off", "statement_kind"),
    ("set local statement_timeout = 0", "statement_kind"),
    ("set role kronos_admin", "statement_kind"),
    ("reset all", ""),
    ("table users.probe", ""),
    // Writing inside of a query.
    ("with x as (delete from users.probe returning *) select * from x", "nested_statement"),
    ("with x as (update users.probe set name = 'x' returning *) select * from x", "nested_statement"),
    ("with x as (insert into users.probe values (9) returning *) select * from x", "nested_statement"),
    ("select * from (with x as (delete from users.probe returning *) select * from x) y", "nested_statement"),
    ("select (with x as (delete from users.probe returning 1) select 1)", "nested_statement"),
    ("with x as (select 1) delete from users.probe", ""),
    ("select * into users.x from users.probe", "into"),
    ("select 1 as a into temp x", "into"),
    ("select id from users.probe for update", "locking"),
    ("select id from users.probe for no key update", ""),
    ("select id from users.probe for share skip locked", "locking"),
    ("select * from (select id from users.probe for update) x", "locking"),
    // Executing under the name of explaining.
    ("explain analyze select 1", "explain_analyze"),
    ("explain (analyze) select 1", "explain_analyze"),
    ("explain (costs off, analyze true) select 1", "explain_analyze"),
    ("explain analyze delete from users.probe", "explain_analyze"),
    ("explain delete from users.probe", "statement_kind"),
    ("explain (buffers) select 1", "explain_option"),
    // Functions that read files, run SQL, lock, wait, write or set.
    ("select pg_read_file('/etc/passwd')", "function"),
    ("select * from pg_read_file('/etc/passwd')", "function"),
    ("select * from pg_ls_dir('/')", "function"),
    ("select pg_read_binary_file('/etc/passwd')", "function"),
    ("select pg_stat_file('/etc/passwd')", "function"),
    ("select query_to_xml('select pg_read_file(''/etc/passwd'')', true, true, '')", "function"),
    ("select * from query_to_xml('delete from users.probe', true, true, '')", "function"),
    ("select table_to_xml('auth.credentials', true, true, '')", "function"),
    ("select schema_to_xml('auth', true, true, '')", "function"),
    ("select database_to_xml(true, true, '')", "function"),
    ("select cursor_to_xml('kronos_query', 1, true, true, '')", "function"),
    ("select * from ts_stat('select to_tsvector(secret) from users.probe')", "function"),
    ("select ts_rewrite('a'::tsquery, 'select 1')", "function"),
    ("select * from dblink('host=127.0.0.1', 'delete from users.probe') as t(x int)", ""),
    ("select set_config('default_transaction_read_only', 'off', false)", "function"),
    ("select set_config('statement_timeout', '0', false)", "function"),
    ("select current_setting('data_directory')", "function"),
    ("select pg_advisory_lock(1)", "function"),
    ("select pg_try_advisory_lock_shared(1)", "function"),
    ("select pg_advisory_xact_lock(1)", "function"),
    ("select pg_sleep(10)", "function"),
    ("select pg_sleep_for('10 s')", "function"),
    ("select pg_terminate_backend(1)", "function"),
    ("select pg_cancel_backend(1)", "function"),
    ("select pg_reload_conf()", "function"),
    ("select pg_notify('kronos', 'x')", "function"),
    ("select pg_switch_wal()", "function"),
    ("select pg_export_snapshot()", "function"),
    ("select nextval('logs.line_seq')", "function"),
    ("select setval('logs.line_seq', 1)", "function"),
    ("select lo_create(0)", "function"),
    ("select lo_from_bytea(0, 'x')", "function"),
    ("select lo_import('/etc/passwd')", "function"),
    ("select lo_export(1, '/tmp/x')", "function"),
    ("select lo_get(1)", "function"),
    ("select txid_current()", "function"),
    ("select random()", "function"),
    ("select gen_random_uuid()", "function"),
    ("select repeat('x', 1000000000)", "function"),
    ("select lpad('x', 1000000000)", "function"),
    ("select inet_server_addr()", "function"),
    ("select to_regclass('auth.credentials')", "function"),
    ("select has_table_privilege('auth.credentials', 'select')", "function"),
    ("select pg_get_functiondef(1)", "function"),
    ("select xmlparse(document '<x/>')", ""),
    ("select * from xmltable('/' passing '<x/>' columns a text)", ""),
    // The same function, spelled otherwise or hidden deeper.
    ("select pg_catalog.pg_sleep(10)", "function"),
    ("select \"pg_sleep\"(10)", "function"),
    ("select PG_SLEEP(10)", "function"),
    ("select \"pg_catalog\".\"pg_sleep\"(10)", "function"),
    ("select U&\"\\0070g_sleep\"(10)", ""),
    ("select U&\"!0070g_sleep\" uescape '!' (10)", ""),
    ("select pg_sleep /* */ (10)", "function"),
    ("select pg_sleep\n(10)", "function"),
    ("select kronos.public.lower('x')", "function"),
    ("select public.lower('x')", "function"),
    ("select auth.refuse_audit_change()", "function"),
    ("values (pg_sleep(10))", "function"),
    ("select 1 order by pg_sleep(10)", "function"),
    ("select 1 limit (select 1 from pg_sleep(10))", "function"),
    ("select 1 offset pg_advisory_lock(1)", "function"),
    ("select count(*) filter (where pg_sleep(10) is null)", "function"),
    ("select count(*) over (order by pg_sleep(10))", "function"),
    ("select count(*) over w from users.probe window w as (order by pg_advisory_lock(1))", "function"),
    ("select count(*) from users.probe group by pg_sleep(10)", "function"),
    ("select 1 group by grouping sets ((pg_sleep(10)))", "function"),
    ("select count(*) from users.probe having pg_sleep(10) is null", "function"),
    ("select distinct on (pg_sleep(10)) 1", "function"),
    ("select case when pg_sleep(10) is null then 1 else 2 end", "function"),
    ("select case pg_advisory_lock(1) when null then 1 end", "function"),
    ("select coalesce(null, pg_sleep(10)::text)", "function"),
    ("select (array[1])[pg_advisory_lock(1)::text::int]", "function"),
    ("select array[pg_sleep(10)]", "function"),
    ("select array(select pg_sleep(10))", ""),
    ("select row(pg_sleep(10))", ""),
    ("select 1 where exists (select pg_sleep(10))", "function"),
    ("select 1 where 1 in (select lo_create(0)::text::int)", "function"),
    ("select 1 where 1 = any (select lo_create(0)::text::int)", "function"),
    ("select * from users.probe a join users.probe b on pg_sleep(10) is null", "function"),
    ("select * from users.probe p, lateral pg_sleep(p.id) s", "function"),
    ("select * from rows from (pg_sleep(10)) as t", ""),
    ("select * from (select 1) x where x = any (select pg_sleep(10)::text::int)", "function"),
    ("select 1 union select lo_create(0)::text::int", "function"),
    ("(select 1) union all (select 1 from pg_sleep(10))", "function"),
    ("with recursive x as (select 1 union all select lo_create(0)::text::int from x) select * from x", "function"),
    ("select string_agg(name, ',' order by pg_sleep(10)) from users.probe", "function"),
    ("select percentile_disc(0.5) within group (order by pg_sleep(10)) from users.probe", "function"),
    ("select lower(name => pg_sleep(10)::text)", "function"),
    ("select concat(variadic array[pg_sleep(10)::text])", ""),
    ("select extract(epoch from pg_sleep(10)::text::timestamp)", "function"),
    ("select position('a' in pg_sleep(10)::text)", "function"),
    ("select substring(pg_sleep(10)::text from 1 for 1)", "function"),
    ("select trim(pg_sleep(10)::text)", "function"),
    ("select overlay('a' placing pg_sleep(10)::text from 1)", "function"),
    ("select now() at time zone pg_sleep(10)::text", "function"),
    ("select 'a' like 'b' escape pg_sleep(10)::text", ""),
    ("select 1 between 0 and pg_advisory_lock(1)::text::int", "function"),
    ("select 1 is distinct from pg_advisory_lock(1)::text::int", "function"),
    ("explain select pg_sleep(10)", "function"),
    // A function called without brackets: alias.name calls name(row) when no column has that name.
    ("select s.pg_sleep from unnest(array[10.0::float8]) s", "function_as_column"),
    ("select s.pg_advisory_lock from unnest(array[1::bigint]) s", "function_as_column"),
    ("select s.\"pg_advisory_lock\" from unnest(array[1::bigint]) s", "function_as_column"),
    ("select s.lo_create from generate_series(0, 0) s", "function_as_column"),
    ("select s.pg_read_file from unnest(array['/etc/passwd']) s", "function_as_column"),
    ("select s.ts_stat from unnest(array['select 1']) s", "function_as_column"),
    ("select 1 from unnest(array[1::bigint]) s where s.pg_advisory_lock is null", "function_as_column"),
    ("select (s).pg_advisory_lock from unnest(array[1::bigint]) s", ""),
    ("select (1::bigint).pg_advisory_lock", ""),
    ("select (select s from unnest(array[1::bigint]) s).pg_advisory_lock", ""),
    ("select (array[1::bigint])[1].pg_advisory_lock", ""),
    // Tables that are not there to be read, and columns.
    ("select * from auth.secrets", "table"),
    ("select password_phc from auth.credentials", "not_readable"),
    ("select * from auth.credentials", "not_readable"),
    ("select c from auth.credentials c", "not_readable"),
    ("select to_json(c) from auth.credentials c", "not_readable"),
    ("select c::text from auth.credentials c", "not_readable"),
    ("select count(*) from auth.credentials where password_phc like 'a%'", "not_readable"),
    ("select 1 from auth.credentials order by password_phc", "not_readable"),
    ("select count(c) from auth.credentials c", "not_readable"),
    ("select user_id from auth.credentials natural join auth.credentials x", "not_readable"),
    ("select secret from users.probe", "not_readable"),
    ("select * from users._sqlx_migrations", "table"),
    ("select * from pg_catalog.pg_authid", "table"),
    ("select * from pg_authid", "table"),
    ("select * from pg_shadow", "table"),
    ("select * from pg_stat_activity", "table"),
    ("select * from pg_settings", "table"),
    ("select * from pg_file_settings", "table"),
    ("select * from information_schema.tables", "table"),
    ("select * from users.PG_CLASS", "table"),
    ("select * from kronos.users.probe", "table"),
    ("select * from probe", "table"),
    ("select * from only pg_authid", ""),
    ("with pg_authid as (select 1) select * from pg_authid", "name"),
    ("select * from (with pg_shadow as (select 1) select 1) x, pg_shadow", "name"),
    ("select * from public.pg_stat_statements", "table"),
    // Types and operators that lead elsewhere.
    ("select 'auth.credentials'::regclass", "type"),
    ("select cast('auth.credentials' as regclass)", "type"),
    ("select 'pg_sleep'::regproc", "type"),
    ("select regclass 'auth.credentials'", ""),
    ("select '<x/>'::xml", "type"),
    ("select 'x'::users.probe", "type"),
    ("select 'x'::auth.kind", "type"),
    ("select 1 operator(pg_catalog.+) 1", ""),
    ("select 1 operator(users.+) 1", ""),
    ("select id from users.probe order by id using operator(users.<)", ""),
    ("select id from users.probe order by id using <", ""),
    ("select 'a' collate \"C\"", "not_allowed"),
    ("select * from users.probe tablesample system (1)", "not_allowed"),
    ("select * from users.probe tablesample users.f (1)", ""),
    // Strings and names that two parsers could read in two ways.
    ("select E'\\'; delete from users.probe --'", "string_form"),
    ("select U&'\\0027'", "string_form"),
    ("select N'x'", "string_form"),
    ("select X'00'", "string_form"),
    ("select $$x$$", "string_form"),
    ("select $a$x$a$", "string_form"),
    ("select \"a\"\"b\" from users.probe", "name"),
    ("select `id` from users.probe", ""),
    ("select [id] from users.probe", ""),
    ("select 1 as \"a' b\"", "name"),
    ("select '\u{0}'", ""),
    ("select 1 \u{0}", ""),
    ("select \u{ff50}g_sleep(10)", "function"),
    ("select pg_slee\u{ff50}(10)", "function"),
    ("\u{feff}delete from users.probe", ""),
    ("select :name", ""),
    ("select ?", ""),
    ("select @a", ""),
    ("select $0", ""),
    // Nothing to run.
    ("-- nothing", "empty"),
    (";", "empty"),
    ("select", ""),
    ("selekt 1", ""),
    // Too much.
    ("select * from generate_series(1, 100000000000)", "too_heavy"),
    (
        "select count(*) from generate_series(1, 100000) a, generate_series(1, 100000) b, generate_series(1, 100000) c",
        "too_heavy",
    ),
    ("with recursive t(x) as (select 1 union all select x from t) select count(*) from t", "too_slow"),
    (
        "with recursive t(n, x) as (select 1, 'x'::text union all select n + 1, x || x from t where n < 24) select x from t",
        "row_too_large",
    ),
];

/// What an attack could change.
async fn fingerprint(admin: &PgPool) -> (String, i64, i64, i64, String) {
    sqlx::query_as(
        "select (select md5(string_agg(p::text, '|' order by id)) from users.probe p),
             (select count(*) from pg_class where relnamespace::regnamespace::text not like 'pg\\_%'),
             (select count(*) from pg_proc), (select count(*) from pg_largeobject_metadata),
             (select string_agg(rolname || rolsuper, ',' order by rolname) from pg_roles where rolname like 'kronos\\_%')",
    )
    .fetch_one(admin)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_known_way_out_of_the_sandbox_is_refused_and_changes_nothing() {
    let harness = Harness::start_with(|config| {
        config.query.statement_timeout_ms = 700;
        // Each attack meets whatever the one before has left.
        config.reader.max_connections = 1;
    })
    .await;
    harness.probe().await;
    let admin = PgPool::connect(&harness.database.admin_url()).await.unwrap();
    let before = fingerprint(&admin).await;
    let settings = ["statement_timeout", "default_transaction_read_only", "search_path", "transaction_read_only"];
    let mut shown = Vec::new();
    for setting in settings {
        shown.push(harness.ask(&format!("show {setting}")).await.rows().clone());
    }

    let mut wrong = Vec::new();
    for (sql, rule) in ATTACKS {
        let answer = harness.ask(sql).await;
        if answer.status != 422 || (!rule.is_empty() && answer.rule() != *rule) {
            wrong.push(format!("{sql}\n    wanted {rule:?}, got {} {}", answer.status, answer.body));
        }
    }
    assert!(wrong.is_empty(), "{} attacks:\n{}", wrong.len(), wrong.join("\n"));

    assert_eq!(fingerprint(&admin).await, before, "something changed");
    for (setting, shown) in settings.iter().zip(shown) {
        assert_eq!(*harness.ask(&format!("show {setting}")).await.rows(), shown, "{setting} changed");
    }
    let locks: i64 = sqlx::query_scalar("select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())").fetch_one(&admin).await.unwrap();
    assert_eq!(locks, 0, "an advisory lock was left behind");
    let recorded: i64 = sqlx::query_scalar(
        "select count(*) from dbadmin.query_audit where outcome in ('refused', 'failed') and rule is not null",
    )
    .fetch_one(&admin)
    .await
    .unwrap();
    assert_eq!(recorded, i64::try_from(ATTACKS.len()).unwrap(), "every attempt is on record");
    admin.close().await;
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_deep_or_long_is_refused_and_not_a_crash() {
    let harness = Harness::start().await;
    let deep = [
        format!("select {}1{}", "(".repeat(3_000), ")".repeat(3_000)),
        format!("select {}1", "-".repeat(1_001).replace('-', "- ")),
        format!("select {}true", "not ".repeat(3_000)),
        format!("select {}", vec!["(select 1"; 500].join(" + ")),
        format!("select {}", vec!["1"; 10_000].join(" + ")),
        format!("select '{}'", "x".repeat(70_000)),
        format!("select 1{}", " union select 1".repeat(1_500)),
        format!("select {}1{}", "case when true then ".repeat(400), " end".repeat(400)),
        format!("select a{}", "[1]".repeat(1_500)),
        format!("select {}x", "array[".repeat(1_000)),
    ];
    for sql in deep {
        let answer = harness.ask(&sql).await;
        assert_eq!(answer.status, 422, "{} … {}", &sql[..40], answer.body);
    }
    // Long, but harmless: whatever the verdict, it is one, and the service lives.
    for sql in [format!("select {}", vec!["1"; 1_500].join(" + ")), format!("select {}", vec!["'a'"; 1_900].join(", "))]
    {
        let answer = harness.ask(&sql).await;
        assert!([200, 422].contains(&answer.status), "{}", answer.body);
    }
    assert_eq!(*harness.ask("select 1").await.rows(), json!([[1]]));
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_its_rule_and_its_place() {
    let harness = Harness::start().await;
    let answer = harness.ask("select 1,\n  pg_sleep(10)").await;
    assert_eq!((answer.status, answer.rule()), (422, "function"));
    assert!(answer.detail().contains("line 2, column 3"), "{}", answer.body);
    assert_eq!(answer.body["errors"][0]["pointer"], "/sql");
    let audit = harness.database.pool("kronos_dbadmin").await;
    let (subject, outcome, rule, line, column, sql): (String, String, String, i32, i32, String) =
        sqlx::query_as("select subject, outcome, rule, line, column_number, sql from query_audit")
            .fetch_one(&audit)
            .await
            .unwrap();
    assert_eq!((subject.as_str(), outcome.as_str(), rule.as_str()), ("tester", "refused", "function"));
    assert_eq!((line, column), (2, 3));
    assert_eq!(sql, "select 1,\n  pg_sleep(10)");
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_more_rights_than_it_should_have_is_not_used() {
    let harness = Harness::start_with(|config| {
        // The backup's role may read everything: a mistake in the configuration.
        config.reader.url = kronos_testkit::Stores::get().postgres.url.clone().into();
    })
    .await;
    let answer = harness.ask("select 1").await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    harness.stop().await;
}
