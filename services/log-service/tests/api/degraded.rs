//! Elasticsearch away, slow, back, or new: searches go on, and say so.

use kronos_testkit::{Proxy, Stores, http, wait_until};
use log_service::store::{elastic::Elastic, index_state};
use serde_json::json;

use crate::harness::{Harness, NOBODY, delete_indices, line, messages};

#[tokio::test]
async fn without_elasticsearch_postgres_answers_and_says_so() {
    let logs = Harness::start_with(|config| config.elasticsearch.url = format!("http://{NOBODY}")).await;
    logs.keep(&json!([line("alpha one"), line("beta"), line("alpha two")])).await;
    let page = logs.search("q=alpha&order=oldest").await;
    assert_eq!(messages(page["items"].as_array().unwrap()), ["alpha one", "alpha two"]);
    assert_eq!(page["degraded"], true);
    let watermark = &page["watermark"];
    assert_eq!((&watermark["backend"], &watermark["pending"]), (&json!("postgres"), &json!(0)), "{watermark}");
    assert_eq!(page["sources"][0]["status"], "ok");
    let ready = http(logs.running.operations).get("/ready").await.expect(200).json();
    assert!(ready.to_string().contains("elasticsearch"), "{ready}");
    logs.stop().await;
}

#[tokio::test]
async fn the_index_catches_up_when_elasticsearch_is_back() {
    let (proxy, url) = Proxy::in_front_of(&Stores::get().elasticsearch.url).await;
    let logs = Harness::start_with(|config| config.elasticsearch.url = url.trim_end_matches('/').to_owned()).await;
    logs.keep(&line("before")).await;
    logs.find("q=before", 1).await;
    proxy.block();
    for n in 0..5 {
        logs.keep(&line(&format!("meanwhile {n}"))).await;
    }
    let page = logs.search("q=meanwhile").await;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["degraded"]), (5, &json!(true)));
    proxy.restore();
    logs.find("q=meanwhile", 5).await;
    logs.find("service=robot", 6).await;
    logs.stop().await;
}

#[tokio::test]
async fn an_index_that_is_far_behind_is_not_asked() {
    let logs = Harness::start_with(|config| config.elasticsearch.max_lag_ms = 0).await;
    logs.keep(&line("first")).await;
    logs.find("q=first", 1).await;
    // Elasticsearch answers, but nobody gets a turn to fill it.
    let pool = logs.database.pool("kronos_logs").await;
    let cluster = Elastic::new(&logs.config.elasticsearch).unwrap().cluster().await.unwrap();
    let mut turn = None;
    wait_until("the turn is ours", async || {
        turn = index_state::take_turn(&pool, &cluster).await.unwrap();
        turn.is_some()
    })
    .await;
    logs.keep(&line("second")).await;
    let page = logs.search("").await;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["watermark"]["backend"]), (2, &json!("postgres")));
    assert_eq!(page["degraded"], true);
    turn.unwrap().end().await.unwrap();
    logs.find("", 2).await;
    logs.stop().await;
}

#[tokio::test]
async fn an_index_that_lost_its_data_is_filled_again() {
    let logs = Harness::start().await;
    logs.keep(&json!([line("kept one"), line("kept two")])).await;
    logs.find("q=kept", 2).await;
    // As if the checkpoint was of a cluster that is gone, and this one is new and empty.
    let prefix = logs.config.elasticsearch.prefix.clone();
    delete_indices(|name| name.starts_with(&prefix)).await;
    assert!(logs.search("q=kept").await["items"].as_array().unwrap().is_empty());
    let pool = logs.database.pool("kronos_logs").await;
    sqlx::query("update index_checkpoint set cluster = 'gone'").execute(&pool).await.unwrap();
    logs.find("q=kept", 2).await;
    logs.stop().await;
}

#[tokio::test]
async fn two_instances_index_every_line_once() {
    let logs = Harness::start().await;
    let other = logs.another().await;
    let second = http(other.api).bearer(logs.issuer.token("tester", &["logs:write"]));
    for n in 0..20 {
        let named =
            |side: &str| json!({ "service": "robot", "level": "info", "message": "both", "id": format!("{side}{n}") });
        logs.keep(&named("a")).await;
        second.post("/logs", &named("b")).await.expect(201);
    }
    logs.find("q=both", 40).await;
    other.stop().await;
    logs.stop().await;
}

#[tokio::test]
async fn a_line_that_the_index_refuses_is_in_quarantine_and_stops_no_other() {
    // A mapping that refuses what ours takes: `message` as a number, kept from before the service came.
    let logs = Harness::start().await;
    let base = &Stores::get().elasticsearch.url;
    let (prefix, today) = (&logs.config.elasticsearch.prefix, chrono::Utc::now().format("%Y.%m.%d"));
    let settings = json!({
        "settings": { "mapping.ignore_malformed": false },
        "mappings": { "dynamic": false, "properties": { "service": { "type": "long" }, "micros": { "type": "long" }, "seq": { "type": "long" } } }
    });
    let http = reqwest::Client::new();
    let made = http.put(format!("{base}/{prefix}logs-{today}")).json(&settings).send().await.unwrap();
    made.error_for_status().unwrap();
    logs.keep(&json!([
        { "service": "refused", "level": "info", "message": "text" }, { "service": "7", "level": "info", "message": "number" }
    ]))
    .await;
    logs.find("", 1).await;
    let pool = logs.database.pool("kronos_logs").await;
    let (reference, reason): (String, String) =
        sqlx::query_as("select reference, reason from quarantine where origin = 'index'")
            .fetch_one(&pool)
            .await
            .unwrap();
    let refused: i64 =
        sqlx::query_scalar("select seq from lines where service = 'refused'").fetch_one(&pool).await.unwrap();
    assert_eq!(reference, refused.to_string());
    assert!(reason.contains("parsing_exception"), "{reason}");
    logs.stop().await;
}
