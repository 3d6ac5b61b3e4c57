//! `POST /db/query`: what it answers.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::Harness;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_columns_types_and_rows() {
    let harness = Harness::start().await;
    harness.probe().await;
    let answer = harness.ask("select id, name, born, data from users.probe order by id").await;
    assert_eq!(
        *answer.rows(),
        json!([
            [1, "ada", "2026-01-02T03:04:05.5Z", { "a": [1, 2] }],
            [2, "o'hara \\", null, null],
            [3, "zoé", "2026-11-21T00:00:00Z", 3],
        ])
    );
    let columns = json!([
        { "name": "id", "type": "int4" }, { "name": "name", "type": "text" },
        { "name": "born", "type": "timestamptz" }, { "name": "data", "type": "jsonb" },
    ]);
    assert_eq!(answer.body["columns"], columns);
    assert_eq!(answer.body["rowCount"], 3);
    assert_eq!(answer.body["truncated"], false);
    assert_eq!(answer.body["cached"], false);
    assert!(answer.body["durationMs"].as_f64().unwrap() > 0.0);
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_harmless_runs() {
    let harness = Harness::start().await;
    harness.probe().await;
    let cases: Vec<(&str, Value)> = vec![
        ("select 1", json!([[1]])),
        ("SELECT 1;", json!([[1]])),
        ("select 1 -- a comment that swallows nothing", json!([[1]])),
        ("/* before */ select /* between */ 1 /* after */", json!([[1]])),
        ("values (1, 'a'), (2, null)", json!([[1, "a"], [2, null]])),
        ("select 'it''s', 'back\\slash', ''''", json!([["it's", "back\\slash", "'"]])),
        ("select '\\'', 'x' where '\\' = '\\'", Value::Null),
        ("select '; delete from users.probe --'", json!([["; delete from users.probe --"]])),
        ("select count(*), max(name) from users.probe", json!([[3, "zoé"]])),
        ("select p.id from users.probe as p where p.name ilike 'A%'", json!([[1]])),
        ("select \"p\".\"id\" from \"users\".\"probe\" \"p\" where id = 2", json!([[2]])),
        ("select id from USERS.Probe where id in (1, 2) order by id desc", json!([[2], [1]])),
        (
            "with a as (select id from users.probe), b as (select * from a where id > 1) select count(*) from b",
            json!([[2]]),
        ),
        (
            "with recursive t(n) as (select 1 union all select n + 1 from t where n < 3) select sum(n) from t",
            json!([[6]]),
        ),
        (
            "select a.id, b.name from users.probe a left join users.probe b on b.id = a.id + 2 order by 1 limit 1",
            json!([[1, "zoé"]]),
        ),
        ("select id, row_number() over (order by id desc) from users.probe order by id limit 1", json!([[1, 3]])),
        (
            "select case when id = 1 then 'one' else 'many' end from users.probe order by id limit 2",
            json!([["one"], ["many"]]),
        ),
        ("select data -> 'a' ->> 0, data #>> '{a,1}' from users.probe where id = 1", json!([["1", "2"]])),
        (
            "select date_trunc('day', born), extract(year from born)::int from users.probe where id = 3",
            json!([["2026-11-21T00:00:00Z", 2026]]),
        ),
        ("select now() - interval '1 day' < now()", json!([[true]])),
        ("select make_interval(days => 2)::text", json!([["P2D"]])),
        ("select string_agg(name, ',' order by id) filter (where id <> 2) from users.probe", json!([["ada,zoé"]])),
        ("select 1 union select 2 order by 1", json!([[1], [2]])),
        ("select exists (select 1 from users.probe where id = 9)", json!([[false]])),
        ("select * from unnest(array[1, 2]) as u(x)", json!([[1], [2]])),
        ("select x from generate_series(1, 3) as x", json!([[1], [2], [3]])),
        (
            "select 0.1::numeric(10,1), 1.10::numeric, 12345678901234567890::numeric, 1e400::numeric > 1",
            json!([[0.1, "1.10", "12345678901234567890", true]]),
        ),
        (
            "select 'NaN'::float8, 1.5::float8, 9007199254740993::bigint",
            json!([["NaN", 1.5, 9_007_199_254_740_993_i64]]),
        ),
        ("select true, null::text, 'a'::varchar(3), '\\x00ff'::bytea::text", json!([[true, null, "a", "\\x00ff"]])),
        ("select '11111111-1111-7111-8111-111111111111'::uuid", json!([["11111111-1111-7111-8111-111111111111"]])),
        ("select lower(upper(name)) from users.probe where id = 1", json!([["ada"]])),
        ("select pg_catalog.lower('A')", json!([["a"]])),
        ("select 1 as \"order\", 2 as \"Ünïcode\"", json!([[1, 2]])),
        ("select count(*) from dbadmin.query_audit where outcome = 'nothing'", json!([[0]])),
        ("show transaction_read_only", json!([["on"]])),
    ];
    for (sql, rows) in cases {
        let answer = harness.ask(sql).await;
        if rows.is_null() {
            assert_eq!(answer.status, 422, "{sql}: {}", answer.body);
        } else {
            assert_eq!(answer.status, 200, "{sql}: {}", answer.body);
            assert_eq!(answer.body["rows"], rows, "{sql}");
        }
    }
    let plan = harness.ask("explain (format json, verbose) select id from users.probe").await;
    assert!(plan.rows()[0][0][0]["Plan"]["Total Cost"].is_number(), "{}", plan.body);
    let plan = harness.ask("explain select id from users.probe where id = 1").await;
    assert!(plan.rows()[0][0].as_str().unwrap().contains("probe"), "{}", plan.body);
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_take_the_type_that_the_statement_asks_for() {
    let harness = Harness::start().await;
    harness.probe().await;
    let cases = [
        ("select name from users.probe where id = $1", json!([2]), json!([["o'hara \\"]])),
        ("select id from users.probe where name = $1", json!(["o'hara \\"]), json!([[2]])),
        ("select id from users.probe where name = $1", json!(["' or true --"]), json!([])),
        ("select id from users.probe where born >= $1", json!(["2026-06-01T00:00:00Z"]), json!([[3]])),
        (
            "select $1::text, $2::bool, $3::float8, $4::uuid, $5::jsonb, $6::date",
            json!(["a", true, 1.5, "11111111-1111-7111-8111-111111111111", {"a": 1}, "2026-11-21"]),
            json!([["a", true, 1.5, "11111111-1111-7111-8111-111111111111", {"a": 1}, "2026-11-21"]]),
        ),
        ("select $1::int is null", json!([null]), json!([[true]])),
        ("select $1::text::numeric + 1", json!(["1.5"]), json!([[2.5]])),
        ("explain select id from users.probe where id = $1", json!([1]), Value::Null),
    ];
    for (sql, params, rows) in cases {
        let answer = harness.ask_with(json!({ "sql": sql, "params": params })).await;
        assert_eq!(answer.status, 200, "{sql}: {}", answer.body);
        assert!(rows.is_null() || answer.body["rows"] == rows, "{sql}: {}", answer.body);
    }
    for (sql, params, pointer) in [
        ("select id from users.probe where id = $1", json!(["one"]), "/params/0"),
        ("select id from users.probe where id = $1", json!([3_000_000_000_i64]), "/params/0"),
        ("select id from users.probe where id = $1 and name = $2", json!([1, 2]), "/params/1"),
        ("select id from users.probe where id = $1", json!([]), "/params/0"),
        ("select 1", json!([1]), "/params/0"),
        ("select $1::uuid", json!(["no"]), "/params/0"),
        ("select $1::text", json!(["a\u{0}b"]), "/params/0"),
        ("select $1::numeric", json!([1]), "/params/0"),
    ] {
        let answer = harness.ask_with(json!({ "sql": sql, "params": params })).await;
        assert_eq!(answer.status, 422, "{sql}: {}", answer.body);
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{sql}: {}", answer.body);
    }
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_cut_at_its_limits_and_says_so() {
    let harness = Harness::start_with(|config| {
        config.query.max_result_bytes = 10_000;
        config.query.max_row_bytes = 3_000;
        config.query.max_rows = 500;
    })
    .await;
    let count = |sql: &str, rows: u32| json!({ "sql": sql, "maxRows": rows });
    let series = "select x from generate_series(1, 1000) as x";
    for (rows, wanted, truncated) in [(7, 7, true), (50, 50, true), (500, 500, true), (5_000, 500, true)] {
        let answer = harness.ask_with(count(series, rows)).await;
        assert_eq!(answer.body["rowCount"], wanted, "{rows}");
        assert_eq!(answer.body["truncated"], truncated, "{rows}");
    }
    let exactly = harness.ask_with(count("select x from generate_series(1, 50) as x", 50)).await;
    assert_eq!((&exactly.body["rowCount"], &exactly.body["truncated"]), (&json!(50), &json!(false)));
    let wide =
        "select array_to_string(array(select 'x' from generate_series(1, 900)), '') from generate_series(1, 100)";
    let wide = harness.ask(wide).await;
    // ARRAY(…) may not be known to the parser; the aggregate says the same.
    let wide = if wide.status == 200 {
        wide
    } else {
        harness
            .ask("select (select string_agg('x', '') from generate_series(1, 900) y where x > 0) from generate_series(1, 100) x")
            .await
    };
    let rows = wide.rows().as_array().unwrap().len();
    assert!((8..=12).contains(&rows), "{rows} rows of 900 bytes in 10,000");
    assert_eq!(wide.body["truncated"], true);
    let large = harness.ask("select string_agg('x', '') from generate_series(1, 4000)").await;
    assert_eq!((large.status, large.rule()), (422, "row_too_large"));
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heavy_answer_is_kept_for_a_moment_and_says_so() {
    let harness = Harness::start_with(|config| config.query.cache_min_ms = 0).await;
    harness.probe().await;
    let sql = "select count(*) from users.probe where id > $1";
    let ask = || harness.ask_with(json!({ "sql": sql, "params": [0] }));
    assert_eq!(ask().await.body["cached"], false);
    let again = ask().await;
    assert_eq!((&again.body["cached"], &again.body["rows"]), (&json!(true), &json!([[3]])));
    // The same text with other white space is the same question; other values are another.
    let spaced =
        harness.ask_with(json!({ "sql": "SELECT count(*)  FROM users.probe WHERE id > $1", "params": [0] })).await;
    assert_eq!(spaced.body["cached"], true);
    let other = harness.ask_with(json!({ "sql": sql, "params": [1] })).await;
    assert_eq!((&other.body["cached"], &other.body["rows"]), (&json!(false), &json!([[2]])));
    let fresh = harness
        .client()
        .post("/db/query", &json!({ "sql": sql, "params": [0] }))
        .header("cache-control", "no-cache")
        .await
        .expect(200)
        .json();
    assert_eq!(fresh["cached"], false);
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_light_answer_is_always_fresh() {
    let harness = Harness::start_with(|config| config.query.cache_min_ms = 60_000).await;
    let owner = harness.probe().await;
    let sql = "select count(*) from users.probe";
    assert_eq!(*harness.ask(sql).await.rows(), json!([[3]]));
    sqlx::query("delete from probe where id = 1").execute(&owner).await.unwrap();
    let again = harness.ask(sql).await;
    assert_eq!((&again.body["cached"], &again.body["rows"]), (&json!(false), &json!([[2]])));
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_objections_are_the_callers_to_read() {
    let harness = Harness::start().await;
    harness.probe().await;
    for (sql, hint) in [
        ("select nothing from users.probe", "nothing"),
        ("select 1 / 0", "division by zero"),
        ("select 'x'::int", "invalid input syntax"),
        ("select lower(1, 2)", "does not exist"),
    ] {
        let answer = harness.ask(sql).await;
        assert_eq!((answer.status, answer.rule()), (422, "refused_by_server"), "{sql}: {}", answer.body);
        assert!(answer.detail().contains(hint), "{sql}: {}", answer.body);
    }
    // And the connection is as good as new.
    assert_eq!(*harness.ask("select 1").await.rows(), json!([[1]]));
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_query_ends_on_the_server_too_and_holds_up_nobody() {
    let harness = Harness::start_with(|config| {
        config.query.statement_timeout_ms = 300;
        config.reader.max_connections = 2;
    })
    .await;
    let slow = "with recursive t(x) as (select 1 union all select x from t) select count(*) from t";
    let begun = std::time::Instant::now();
    let (one, two, three) = tokio::join!(harness.ask(slow), harness.ask(slow), harness.ask("select 1"));
    for answer in [one, two] {
        assert_eq!((answer.status, answer.rule()), (422, "too_slow"), "{}", answer.body);
    }
    assert_eq!(*three.rows(), json!([[1]]));
    assert!(begun.elapsed().as_secs() < 5);
    let admin = PgPool::connect(&harness.database.admin_url()).await.unwrap();
    kronos_testkit::wait_until("no query of the reader runs", async || {
        let running: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where usename = 'kronos_reader' and state = 'active'
                 and datname = current_database()",
        )
        .fetch_one(&admin)
        .await
        .unwrap();
        running == 0
    })
    .await;
    admin.close().await;
    harness.stop().await;
}
