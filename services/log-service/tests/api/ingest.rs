//! `POST /logs`: what is kept, what is not, and how often.

use log_service::{
    line::NewLine,
    store::lines::{self, Lines},
};
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::harness::{Harness, line, messages};

#[tokio::test]
async fn a_line_is_found_in_elasticsearch_with_everything_that_it_brought() {
    let logs = Harness::start().await;
    logs.keep(&json!({
        "timestamp": "2026-01-02T03:04:05.123456Z", "service": "hyperion", "level": "WARNING", "message": "Arm R-42 is hot",
        "attributes": { "robot": "R-42", "joint": { "name": "elbow", "celsius": 81.5 } },
        "traceId": "4bf92f3577b34da6a3ce929d0e0e4736", "id": "first"
    }))
    .await;
    let items = logs.find("q=hot%20robot:R-42", 1).await;
    let item = &items[0];
    assert_eq!(item["timestamp"], "2026-01-02T03:04:05.123456Z");
    assert_eq!((&item["service"], &item["level"], &item["id"]), (&json!("hyperion"), &json!("warn"), &json!("first")));
    assert_eq!(item["attributes"], json!({ "robot": "R-42", "joint": { "name": "elbow", "celsius": 81.5 } }));
    assert_eq!(item["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(item["source"], "kronos");
    logs.stop().await;
}

#[tokio::test]
async fn a_line_is_found_within_five_seconds_with_the_settings_as_they_come() {
    let defaults: log_service::Config =
        kronos_common::config::load(log_service::DEFAULTS, None, &std::collections::HashMap::new()).unwrap();
    let logs = Harness::start_with(|config| {
        config.elasticsearch.refresh_interval_ms = defaults.elasticsearch.refresh_interval_ms;
        config.elasticsearch.poll_ms = defaults.elasticsearch.poll_ms;
    })
    .await;
    // The first line makes the index; what counts is every day.
    logs.keep(&line("warm up")).await;
    logs.find("q=warm", 1).await;
    let begun = std::time::Instant::now();
    logs.keep(&line("quick")).await;
    logs.find("q=quick", 1).await;
    // Two on a machine that has nothing else to do.
    assert!(begun.elapsed().as_millis() < 5_000, "it took {} ms", begun.elapsed().as_millis());
    logs.stop().await;
}

#[tokio::test]
async fn an_object_a_list_and_ndjson_are_all_taken() {
    let logs = Harness::start().await;
    let client = logs.client();
    client.post("/logs", &line("one")).await.expect(201);
    client.post("/logs", &json!([line("two"), line("three")])).await.expect(201);
    let body = format!("{}\n\n{}\r\n", line("four"), line("five"));
    let request = client.request(reqwest::Method::POST, "/logs").header("content-type", "application/x-ndjson");
    let answer = request.body(body).await.expect(201).json();
    assert_eq!(answer, json!({ "accepted": 2, "duplicates": 0, "rejected": [] }));
    logs.find("service=robot", 5).await;
    logs.stop().await;
}

#[tokio::test]
async fn a_bad_line_is_named_and_keeps_no_other_out() {
    let logs = Harness::start().await;
    let body = json!([
        line("good"),
        { "service": "robot", "level": "loud", "message": "bad level" },
        { "service": "robot", "level": "info" },
        { "service": "robot", "level": "info", "message": "more", "colour": "red" },
        7,
        line("also good"),
    ]);
    let answer = logs.client().post("/logs", &body).await.expect(201).json();
    assert_eq!(answer["accepted"], 2);
    let rejected: Vec<(u64, &str)> = answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["index"].as_u64().unwrap(), it["code"].as_str().unwrap()))
        .collect();
    assert_eq!(rejected, [(1, "invalid"), (2, "missing"), (3, "unknown_field"), (4, "wrong_type")]);
    let lines = logs.client().request(reqwest::Method::POST, "/logs").header("content-type", "application/x-ndjson");
    let answer = lines.body(format!("{}\n{{\"service\": \n{}", line("a"), line("b"))).await.expect(201).json();
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["index"]), (&json!(2), &json!(1)), "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "malformed_json");
    logs.stop().await;
}

#[tokio::test]
async fn only_bad_lines_are_a_422_that_names_every_field() {
    let logs = Harness::start().await;
    let problem = logs.client().post("/logs", &json!([{}, { "service": "", "level": "info", "message": "m" }])).await;
    let problem = problem.expect_problem(422, "invalid_request").json();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/0/level", "/0/message", "/0/service", "/1/service"]);
    let problem = logs.client().post("/logs", &json!({ "service": "a", "level": 1, "message": [] })).await;
    let problem = problem.expect_problem(422, "invalid_request").json();
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "{problem}");
    logs.stop().await;
}

#[tokio::test]
async fn the_same_service_and_id_are_kept_once() {
    let logs = Harness::start().await;
    let named = json!({ "service": "robot", "level": "info", "message": "once", "id": "7" });
    let answer = logs.client().post("/logs", &json!([named, named])).await.expect(201).json();
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(1), &json!(1)));
    let answer = logs.client().post("/logs", &named).await.expect(201).json();
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(0), &json!(1)));
    let mut other = named.clone();
    other["service"] = "another".into();
    logs.keep(&other).await;
    logs.find("q=once", 2).await;
    logs.stop().await;
}

#[tokio::test]
async fn many_writers_at_once_lose_and_repeat_nothing() {
    let logs = Harness::start().await;
    let writers: Vec<_> = (0..20)
        .map(|writer| {
            let client = logs.client();
            tokio::spawn(async move {
                for batch in 0..5 {
                    let lines: Vec<Value> = (0..10)
                        .map(|n| json!({ "service": "load", "level": "info", "message": "m", "id": format!("{writer}-{batch}-{n}") }))
                        .collect();
                    client.post("/logs", &lines).await.expect(201);
                    // The same again, as after a lost answer.
                    client.post("/logs", &lines).await.expect(201);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let pool = logs.database.pool("kronos_logs").await;
    let row = sqlx::query("select count(*), count(distinct id) from lines").fetch_one(&pool).await.unwrap();
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (1000, 1000));
    logs.find("service=load&limit=1000", 1000).await;
    logs.stop().await;
}

#[tokio::test]
async fn requests_at_the_same_time_share_a_commit() {
    let logs = Harness::start().await;
    let client = logs.client();
    let posts = (0..100).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.post("/logs", &line(&format!("m{n}"))).await.expect(201) })
    });
    for post in posts.collect::<Vec<_>>() {
        post.await.unwrap();
    }
    let pool = logs.database.pool("kronos_logs").await;
    let select = "select count(distinct xmin::text), count(*) from lines";
    let (commits, lines): (i64, i64) = sqlx::query_as(select).fetch_one(&pool).await.unwrap();
    assert!(lines == 100 && commits < 50, "{lines} lines in {commits} commits");
    logs.stop().await;
}

#[tokio::test]
async fn no_line_overtakes_one_whose_commit_is_slow() {
    let logs = Harness::start_with(|config| {
        config.ingest.patience_ms = 60_000;
        config.postgres.statement_timeout_ms = 60_000;
    })
    .await;
    let pool = logs.database.pool("kronos_logs").await;
    logs.keep(&line("first")).await;
    let new: NewLine = serde_json::from_value(line("slow")).unwrap();
    let slow = new.accept(chrono::Utc::now()).unwrap();
    let mut transaction = pool.begin().await.unwrap();
    lines::write_in(&mut transaction, std::slice::from_ref(&slow), false).await.unwrap();
    // A busy machine may need longer than a writer is given.
    sqlx::query("set local idle_in_transaction_session_timeout = '60s'").execute(&mut *transaction).await.unwrap();
    let client = logs.client();
    let fast = tokio::spawn(async move { client.post("/logs", &line("fast")).await.expect(201) });
    // Until the second writer waits for the first.
    kronos_testkit::wait_until("the second writer waits", async || {
        let select = "select exists (
            select from pg_locks join pg_database on oid = database
            where datname = current_database() and locktype = 'advisory' and not granted)";
        sqlx::query_scalar(select).fetch_one(&pool).await.unwrap()
    })
    .await;
    assert_eq!(Lines::new(pool.clone()).after(0, 10).await.unwrap().len(), 1);
    transaction.commit().await.unwrap();
    fast.await.unwrap();
    let kept = Lines::new(pool.clone()).after(0, 10).await.unwrap();
    assert_eq!(kept.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["first", "slow", "fast"]);
    logs.find("", 3).await;
    logs.stop().await;
}

#[tokio::test]
async fn long_lines_are_read_and_indexed_in_small_pages() {
    let logs = Harness::start().await;
    let long = "word ".repeat(6_000);
    for _ in 0..3 {
        let lines: Vec<Value> = (0..120).map(|n| line(&format!("{n} {long}"))).collect();
        logs.keep(&json!(lines)).await;
    }
    let pool = logs.database.pool("kronos_logs").await;
    let page = Lines::new(pool).after(0, 1_000).await.unwrap();
    assert!((200..360).contains(&page.len()), "{}", page.len());
    logs.indexed().await;
    logs.find("q=word&limit=400", 360).await;
    logs.stop().await;
}

#[tokio::test]
async fn secrets_are_gone_before_anything_is_kept() {
    let logs = Harness::start().await;
    logs.keep(&json!({
        "service": "robot", "level": "info", "message": "login with password=hunter2 done",
        "attributes": { "Password": "hunter2", "headers": [{ "Authorization": "Bearer hunter2" }], "user": "ada" }
    }))
    .await;
    let items = logs.find("q=login", 1).await;
    assert_eq!(items[0]["message"], "login with password=[redacted] done");
    assert_eq!(items[0]["attributes"]["user"], "ada");
    assert_eq!(items[0]["attributes"]["headers"][0]["Authorization"], "[redacted]");
    let pool = logs.database.pool("kronos_logs").await;
    let kept: String = sqlx::query_scalar("select lines::text from lines").fetch_one(&pool).await.unwrap();
    assert!(!kept.contains("hunter2"), "{kept}");
    logs.stop().await;
}

#[tokio::test]
async fn odd_characters_come_back_as_they_went() {
    let logs = Harness::start().await;
    let odd = "tab\t back\\slash \\N new\nline \r \\. quote\" 'apostrophe' émoji 🤖 %_ \u{7f}";
    logs.keep(
        &json!({ "service": "robot", "level": "info", "message": odd, "attributes": { odd: odd, "nul": "a\u{0}b" } }),
    )
    .await;
    let items = logs.find("q=moji", 0).await;
    assert!(items.is_empty());
    let items = logs.find("q=%C3%A9moji", 1).await;
    assert_eq!(items[0]["message"], odd);
    assert_eq!(items[0]["attributes"][odd], odd);
    assert_eq!(items[0]["attributes"]["nul"], "a\u{fffd}b");
    logs.stop().await;
}

#[tokio::test]
async fn too_much_at_once_is_a_429_and_a_full_body_a_413() {
    let logs = Harness::start_with(|config| {
        config.http.body_limit_bytes = 20_000;
        config.ingest.queue_bytes = 20_000;
        config.ingest.linger_ms = 1_000;
    })
    .await;
    let big = json!({ "service": "robot", "level": "info", "message": "x ".repeat(4_000) });
    let (client, first) = (logs.client(), big.clone());
    let waiting = tokio::spawn(async move { client.post("/logs", &first).await });
    let mut refused = None;
    kronos_testkit::wait_until("a second one is refused", async || {
        let answer = logs.client().post("/logs", &big).await;
        let found = answer.status == 429;
        refused = Some(answer);
        found
    })
    .await;
    let refused = refused.unwrap().expect_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("1"));
    waiting.await.unwrap().expect(201);
    let huge = json!([line(&"x".repeat(21_000))]);
    logs.client().post("/logs", &huge).await.expect_problem(413, "body_too_large");
    logs.stop().await;
}

#[tokio::test]
async fn attributes_of_any_number_and_type_never_stop_the_index() {
    let logs = Harness::start().await;
    let lines: Vec<Value> = (0..300)
        .map(|n| {
            // The same name with another type each time, and a new name each time.
            let value = match n % 4 {
                0 => json!(n),
                1 => json!("text"),
                2 => json!({ "deep": n }),
                _ => json!([n, "x", null]),
            };
            json!({ "service": "robot", "level": "info", "message": format!("m{n}"), "attributes": { "same": value, (format!("k{n}")): n } })
        })
        .collect();
    logs.keep(&json!(lines)).await;
    assert_eq!(messages(&logs.find("q=k17:17", 1).await), ["m17"]);
    logs.find("q=same:text&limit=1000", 75).await;
    logs.find("q=same.deep:2", 1).await;
    let pool = logs.database.pool("kronos_logs").await;
    let refused: i64 = sqlx::query_scalar("select count(*) from quarantine").fetch_one(&pool).await.unwrap();
    assert_eq!(refused, 0);
    logs.stop().await;
}
