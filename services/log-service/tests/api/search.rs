//! `GET /logs`: filters, order, pages.

use serde_json::{Value, json};

use crate::harness::{Harness, messages};

fn at(second: u32, service: &str, level: &str, message: &str) -> Value {
    json!({ "timestamp": format!("2026-03-01T12:00:{second:02}Z"), "service": service, "level": level, "message": message })
}

async fn with_corpus() -> Harness {
    let logs = Harness::start().await;
    logs.keep(&json!([
        at(1, "robot", "info", "alpha one"),
        at(2, "robot", "error", "beta two"),
        at(3, "gaia", "warn", "alpha three"),
        at(4, "hermes", "info", "gamma four"),
        at(4, "robot", "info", "alpha five"),
    ]))
    .await;
    logs.find("", 5).await;
    logs
}

#[tokio::test]
async fn filters_narrow_and_the_newest_comes_first() {
    let logs = with_corpus().await;
    for (query, expected) in [
        ("", vec!["alpha five", "gamma four", "alpha three", "beta two", "alpha one"]),
        ("order=oldest", vec!["alpha one", "beta two", "alpha three", "gamma four", "alpha five"]),
        ("service=robot", vec!["alpha five", "beta two", "alpha one"]),
        ("service=robot,gaia&level=warn,error", vec!["alpha three", "beta two"]),
        ("q=alpha", vec!["alpha five", "alpha three", "alpha one"]),
        ("q=alpha%20NOT%20five&service=robot", vec!["alpha one"]),
        ("q=level:%3E%3Dwarn", vec!["alpha three", "beta two"]),
        ("from=2026-03-01T12:00:02Z&to=2026-03-01T12:00:04Z", vec!["alpha three", "beta two"]),
        ("from=2026-03-01T13:00:04%2B01:00", vec!["alpha five", "gamma four"]),
        ("from=-1h", vec![]),
    ] {
        let page = logs.search(query).await;
        assert_eq!(messages(page["items"].as_array().unwrap()), expected, "{query}");
        assert_eq!(page["degraded"], false);
        assert_eq!(page["nextCursor"], Value::Null);
    }
    logs.stop().await;
}

#[tokio::test]
async fn following_the_cursors_gives_every_line_once_in_both_orders() {
    let logs = with_corpus().await;
    for order in ["newest", "oldest"] {
        let whole = logs.search(&format!("order={order}")).await;
        for limit in 1..=5 {
            let (mut items, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = logs.search(&format!("order={order}&limit={limit}{cursor}")).await;
                items.extend(page["items"].as_array().unwrap().clone());
                match page["nextCursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(json!(items), whole["items"], "{order}, {limit}");
        }
    }
    let next = logs.search("limit=1").await["nextCursor"].as_str().unwrap().to_owned();
    let answer = logs.client().get(&format!("/logs?order=oldest&cursor={next}")).await;
    answer.expect_problem(400, "invalid_query");
    logs.stop().await;
}

#[tokio::test]
async fn a_trace_is_followed_through_services() {
    let logs = Harness::start().await;
    logs.keep(&json!([
        { "service": "a", "level": "info", "message": "in", "traceId": "4bf92f3577b34da6a3ce929d0e0e4736" },
        { "service": "b", "level": "info", "message": "out", "traceId": "4bf92f3577b34da6a3ce929d0e0e4736" },
        { "service": "c", "level": "info", "message": "other", "traceId": "00000000000000000000000000000001" },
    ]))
    .await;
    let items = logs.find("traceId=4bf92f3577b34da6a3ce929d0e0e4736&order=oldest", 2).await;
    assert_eq!(items.iter().filter(|item| item["service"] == "c").count(), 0);
    logs.stop().await;
}

#[tokio::test]
async fn the_watermark_says_how_far_the_answer_goes() {
    let logs = with_corpus().await;
    let page = logs.search("").await;
    let watermark = &page["watermark"];
    assert_eq!(watermark["backend"], "elasticsearch");
    assert_eq!((&watermark["pending"], &watermark["seq"]), (&json!(0), &watermark["storedSeq"]));
    assert!(watermark["indexedUpTo"].is_string(), "{watermark}");
    assert_eq!(page["sources"][0]["name"], "kronos");
    assert_eq!((&page["sources"][0]["status"], &page["sources"][0]["items"]), (&json!("ok"), &json!(5)));
    logs.stop().await;
}

#[tokio::test]
async fn a_bad_query_says_what_is_wrong() {
    let logs = Harness::start().await;
    for (query, told) in [
        ("q=(a", "q: at character 3: `)` is missing"),
        ("level=loud", "level: a level is one of"),
        ("from=yesterday", "from: RFC 3339"),
        ("to=-5x", "to: RFC 3339"),
        ("from=-%C3%A9", "from: RFC 3339"),
        ("limit=0", "limit: from 1 to 1000"),
        ("limit=1001", "limit: from 1 to 1000"),
        ("order=best", "order: newest or oldest"),
        ("sources=nobody", "sources: there is no source nobody"),
        ("colour=red", "colour"),
    ] {
        let problem = logs.client().get(&format!("/logs?{query}")).await.expect_problem(400, "invalid_query").json();
        assert!(problem["detail"].as_str().unwrap().contains(told), "{query}: {problem}");
    }
    logs.client().get("/logs?cursor=abc").await.expect_problem(400, "invalid_cursor");
    logs.stop().await;
}
