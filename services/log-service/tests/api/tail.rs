//! `GET /logs/tail`: lines as they come, over server-sent events.

use std::time::Duration;

use kronos_testkit::{TestClient, http};
use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::{Harness, line};

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

/// Reads events; comments are passed over.
struct Reader {
    response: Response,
    buffer: String,
}

impl Reader {
    async fn open(client: &TestClient, query: &str, last: Option<&str>) -> Self {
        let mut request = client.get(&format!("/logs/tail?{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.stream().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new() }
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(10), self.read()).await.expect("an event within 10 s").expect("no end")
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| {
                    let lines = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    lines.collect::<Vec<_>>().join("\n")
                };
                let data = field("data");
                if !data.is_empty() {
                    return Some(Event {
                        id: field("id"),
                        name: field("event"),
                        data: serde_json::from_str(&data).unwrap(),
                    });
                }
                continue;
            }
            let chunk = self.response.chunk().await.ok()??;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_line_is_shown_as_soon_as_it_is_kept_and_only_if_it_fits() {
    let logs = Harness::start().await;
    logs.keep(&line("before")).await;
    let mut all = Reader::open(&logs.client(), "", None).await;
    let mut errors = Reader::open(&logs.client(), "service=robot&level=error&q=arm", None).await;
    logs.keep(&json!([
        line("arm fine"),
        { "service": "robot", "level": "error", "message": "arm broken" },
        { "service": "gaia", "level": "error", "message": "arm broken" },
    ]))
    .await;
    let shown = [all.next().await, all.next().await, all.next().await];
    assert_eq!(shown.clone().map(|event| event.data["message"].clone()), ["arm fine", "arm broken", "arm broken"]);
    assert_eq!(shown[0].data["source"], "kronos");
    let event = errors.next().await;
    assert_eq!((&event.data["service"], &event.data["level"]), (&json!("robot"), &json!("error")));
    assert_eq!(event.id, shown[1].id);
    logs.stop().await;
}

#[tokio::test]
async fn a_line_that_another_instance_took_in_is_shown_too() {
    let logs = Harness::start().await;
    let other = logs.another().await;
    let mut reader =
        Reader::open(&http(other.api).bearer(logs.issuer.token("t", &["logs:read"])), "q=across", None).await;
    logs.keep(&line("across instances")).await;
    assert_eq!(reader.next().await.data["message"], "across instances");
    other.stop().await;
    logs.stop().await;
}

#[tokio::test]
async fn a_reader_that_comes_back_goes_on_where_it_stopped() {
    let logs = Harness::start().await;
    let mut reader = Reader::open(&logs.client(), "q=tick", None).await;
    logs.keep(&json!([line("tick 1"), line("tock"), line("tick 2")])).await;
    let (first, second) = (reader.next().await, reader.next().await);
    assert_eq!(second.data["message"], "tick 2");
    drop(reader);
    logs.keep(&json!([line("tick 3"), line("tock"), line("tick 4")])).await;
    let mut reader = Reader::open(&logs.client(), "q=tick", Some(&first.id)).await;
    logs.keep(&line("tick 5")).await;
    for expected in ["tick 2", "tick 3", "tick 4", "tick 5"] {
        assert_eq!(reader.next().await.data["message"], expected);
    }
    logs.client().get("/logs/tail").header("last-event-id", "x").await.expect_problem(400, "invalid_query");
    logs.stop().await;
}

#[tokio::test]
async fn who_was_away_for_too_long_is_told_how_much_is_missing() {
    let logs = Harness::start_with(|config| config.tail.max_replay = 3).await;
    let lines: Vec<Value> = (1..=8).map(|n| line(&format!("n{n}"))).collect();
    logs.keep(&json!(lines)).await;
    let mut reader = Reader::open(&logs.client(), "", Some("0")).await;
    let gap = reader.next().await;
    assert_eq!((gap.name.as_str(), &gap.data), ("dropped", &json!({ "dropped": 5 })));
    assert_eq!(reader.next().await.data["message"], "n6");
    logs.stop().await;
}

#[tokio::test]
async fn a_slow_reader_misses_lines_and_is_told_how_many() {
    let logs = Harness::start_with(|config| config.tail.buffer_lines = 4).await;
    let mut reader = Reader::open(&logs.client(), "", None).await;
    // More than the sockets between us hold.
    let long = "x".repeat(30_000);
    let lines: Vec<Value> = (0..200).map(|n| line(&format!("{n} {long}"))).collect();
    for batch in lines.chunks(100) {
        logs.keep(&json!(batch)).await;
    }
    let (mut shown, mut dropped) = (0, 0);
    while shown + dropped < 200 {
        let event = reader.next().await;
        match event.name.as_str() {
            "dropped" => dropped += event.data["dropped"].as_u64().unwrap(),
            _ => shown += 1,
        }
    }
    assert!(dropped > 0, "all {shown} were shown");
    assert_eq!(shown + dropped, 200);
    logs.stop().await;
}

#[tokio::test]
async fn tails_are_counted_and_end_with_the_service() {
    let logs = Harness::start_with(|config| config.tail.max_tails = 1).await;
    let mut reader = Reader::open(&logs.client(), "", None).await;
    logs.client().get("/logs/tail?q=other").await.expect_problem(429, "too_many_tails");
    let begun = std::time::Instant::now();
    let (ended, ()) = tokio::join!(reader.read(), logs.stop());
    assert_eq!(ended, None);
    assert!(begun.elapsed() < Duration::from_secs(8), "a tail holds the end up");
}

#[tokio::test]
async fn a_tail_ends_with_its_token() {
    let logs = Harness::start().await;
    let token = logs.issuer.build("t").permissions(&["logs:read"]).life(2).sign();
    let mut reader = Reader::open(&http(logs.running.api).bearer(token), "", None).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), reader.read()).await.expect("it ends");
    assert_eq!(ended, None);
    logs.stop().await;
}

#[tokio::test]
async fn a_place_is_free_again_when_its_reader_has_gone() {
    let logs = Harness::start_with(|config| config.tail.max_tails = 1).await;
    for n in 0..3 {
        let mut reader = None;
        kronos_testkit::wait_until("a place is free", async || {
            let response = logs.client().get("/logs/tail").stream().await;
            let free = response.status() == 200;
            reader = free.then(|| Reader { response, buffer: String::new() });
            free
        })
        .await;
        logs.keep(&line(&format!("n{n}"))).await;
        assert_eq!(reader.unwrap().next().await.data["message"], format!("n{n}"));
    }
    logs.stop().await;
}
