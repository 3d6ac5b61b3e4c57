//! Other systems' lines in every search: a real HTTP server plays Gaia.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    routing::get,
};
use kronos_testkit::{Issuer, Proxy, TestDatabase};
use serde_json::{Value, json};

use crate::harness::{Harness, NOBODY, configuration, line, messages};

/// Gaia: gives the same answer to every question, and remembers the questions.
#[derive(Clone)]
struct Gaia {
    address: SocketAddr,
    answer: Arc<(StatusCode, String, Duration)>,
    asked: Arc<Mutex<Vec<(Uri, HeaderMap)>>>,
}

impl Gaia {
    async fn start(status: u16, answer: &Value, delay: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answer = Arc::new((StatusCode::from_u16(status).unwrap(), answer.to_string(), delay));
        let gaia = Self { address: listener.local_addr().unwrap(), answer, asked: Arc::default() };
        let router = Router::new()
            .route(
                "/api/logs",
                get(async |State(gaia): State<Gaia>, uri: Uri, headers: HeaderMap| {
                    gaia.asked.lock().unwrap().push((uri, headers));
                    tokio::time::sleep(gaia.answer.2).await;
                    (gaia.answer.0, gaia.answer.1.clone())
                }),
            )
            .with_state(gaia.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        gaia
    }

    async fn with(items: &Value) -> Self {
        Self::start(200, &json!({ "items": items }), Duration::ZERO).await
    }

    fn url(&self) -> String {
        format!("http://{}/api/", self.address)
    }

    fn questions(&self) -> Vec<(Uri, HeaderMap)> {
        self.asked.lock().unwrap().clone()
    }
}

fn at(second: u32, message: &str) -> Value {
    json!({ "timestamp": format!("2026-05-01T00:00:{second:02}Z"), "service": "hyperion", "level": "info", "message": message })
}

fn source<'a>(page: &'a Value, name: &str) -> &'a Value {
    page["sources"].as_array().unwrap().iter().find(|source| source["name"] == name).unwrap()
}

async fn register(logs: &Harness, name: &str, body: &Value) {
    logs.client().put(&format!("/logs/sources/{name}"), body).await.expect(201);
}

#[tokio::test]
async fn lines_of_another_system_are_merged_in_time_order_and_say_where_they_are_from() {
    let logs = Harness::start().await;
    let gaia = Gaia::with(&json!([
        { "timestamp": "2026-05-01T00:00:04Z", "service": "hyperion", "level": "WARNING", "message": "from gaia", "id": 4, "extra": 1,
          "attributes": { "apiKey": "hunter2" } },
        at(2, "also from gaia"),
        { "timestamp": "2026-05-01T00:00:03Z", "service": "other", "level": "info", "message": "not asked for" },
        { "no": "line" },
    ]))
    .await;
    logs.keep(&json!([at(1, "one"), at(3, "three"), at(5, "five")])).await;
    logs.find("sources=kronos", 3).await;
    register(&logs, "gaia", &json!({ "url": gaia.url(), "token": "gaia-secret-token" })).await;
    let page = logs.search("service=hyperion&from=2026-05-01T00:00:00Z&limit=10").await;
    let items = page["items"].as_array().unwrap();
    assert_eq!(messages(items), ["five", "from gaia", "three", "also from gaia", "one"]);
    let sources: Vec<&str> = items.iter().map(|item| item["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["kronos", "gaia", "kronos", "gaia", "kronos"]);
    assert_eq!((&items[1]["level"], &items[1]["id"]), (&json!("warn"), &json!("4")));
    assert_eq!(items[1]["attributes"]["apiKey"], "[redacted]");
    assert_eq!((&source(&page, "gaia")["status"], &source(&page, "gaia")["items"]), (&json!("ok"), &json!(2)));
    assert_eq!(source(&page, "kronos")["items"], 3);

    let (uri, headers) = gaia.questions().pop().unwrap();
    assert!(uri.path() == "/api/logs" && uri.query().unwrap().contains("service=hyperion"), "{uri}");
    assert_eq!(headers["authorization"], "Bearer gaia-secret-token");
    let pool = logs.database.pool("kronos_logs").await;
    let kept: String =
        sqlx::query_scalar("select encode(token, 'escape') from sources").fetch_one(&pool).await.unwrap();
    assert!(!kept.contains("gaia-secret"), "the token is sealed: {kept}");
    logs.stop().await;
}

#[tokio::test]
async fn a_line_that_both_have_is_shown_once() {
    let logs = Harness::start().await;
    let mut copy = at(1, "the same");
    copy["id"] = "n1".into();
    let gaia = Gaia::with(&json!([copy, at(2, "only there")])).await;
    logs.keep(&copy).await;
    logs.find("", 1).await;
    register(&logs, "gaia", &json!({ "url": gaia.url() })).await;
    let page = logs.search("").await;
    assert_eq!(messages(page["items"].as_array().unwrap()), ["only there", "the same"]);
    assert_eq!(page["items"][1]["source"], "kronos");
    logs.stop().await;
}

#[tokio::test]
async fn pages_run_through_all_sources() {
    let logs = Harness::start().await;
    let gaia = Gaia::with(&json!([at(4, "g4"), at(3, "g3"), at(3, "g3 too"), at(1, "g1")])).await;
    logs.keep(&json!([at(4, "k4"), at(3, "k3"), at(3, "k3 too"), at(2, "k2")])).await;
    logs.find("", 4).await;
    register(&logs, "gaia", &json!({ "url": gaia.url() })).await;
    for order in ["newest", "oldest"] {
        let whole = logs.search(&format!("order={order}")).await["items"].as_array().unwrap().clone();
        assert_eq!(whole.len(), 8);
        for limit in 1..8 {
            let (mut items, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = logs.search(&format!("order={order}&limit={limit}{cursor}")).await;
                items.extend(page["items"].as_array().unwrap().clone());
                match page["nextCursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(messages(&items), messages(&whole), "{order} by {limit}");
        }
    }
    logs.stop().await;
}

#[tokio::test]
async fn a_source_that_fails_is_said_and_the_others_still_answer() {
    let logs = Harness::start_with(|config| {
        config.sources.timeout_ms = 2_000;
        config.sources.max_response_bytes = 10_000;
    })
    .await;
    logs.keep(&line("ours")).await;
    logs.find("", 1).await;
    let good = Gaia::with(&json!([at(1, "theirs")])).await;
    let broken = Gaia::start(500, &json!({}), Duration::ZERO).await;
    let strict = Gaia::start(403, &json!({}), Duration::ZERO).await;
    let slow = Gaia::start(200, &json!([]), Duration::from_secs(30)).await;
    let odd = Gaia::start(200, &json!("hello"), Duration::ZERO).await;
    let long = Gaia::start(200, &json!([at(1, &"x".repeat(20_000))]), Duration::ZERO).await;
    for (name, url) in [
        ("good", good.url()),
        ("broken", broken.url()),
        ("strict", strict.url()),
        ("slow", slow.url()),
        ("odd", odd.url()),
        ("long", long.url()),
        ("gone", format!("http://{NOBODY}")),
    ] {
        register(&logs, name, &json!({ "url": url })).await;
    }
    let begun = std::time::Instant::now();
    let page = logs.search("").await;
    assert!(begun.elapsed() < Duration::from_secs(20), "sources are asked at the same time, and not for ever");
    assert_eq!(messages(page["items"].as_array().unwrap()), ["ours", "theirs"]);
    for (name, status) in [
        ("kronos", "ok"),
        ("good", "ok"),
        ("broken", "failed"),
        ("strict", "refused"),
        ("slow", "timeout"),
        ("odd", "invalid"),
        ("long", "invalid"),
        ("gone", "unreachable"),
    ] {
        assert_eq!(source(&page, name)["status"], status, "{page}");
    }
    logs.stop().await;
}

#[tokio::test]
async fn while_postgres_is_away_the_sources_that_were_known_are_asked() {
    let database = TestDatabase::create().await;
    let issuer = Issuer::start().await;
    let mut config = configuration(&database, &issuer).await;
    let (proxy, url) = Proxy::in_front_of(&database.url("kronos_logs")).await;
    config.postgres.url = url.into();
    let running = log_service::start(config.clone()).await.unwrap();
    let logs = Harness { database, issuer, config, running };
    let gaia = Gaia::with(&json!([at(1, "theirs")])).await;
    register(&logs, "gaia", &json!({ "url": gaia.url() })).await;
    logs.keep(&line("ours")).await;
    logs.find("", 2).await;
    proxy.block();
    assert_eq!(messages(logs.search("").await["items"].as_array().unwrap()), ["ours", "theirs"]);
    proxy.restore();
    logs.stop().await;
}

#[tokio::test]
async fn a_caller_chooses_the_sources_and_a_system_that_asks_us_is_not_asked_back() {
    let logs = Harness::start().await;
    let (gaia, other) = (Gaia::with(&json!([at(1, "g")])).await, Gaia::with(&json!([at(2, "o")])).await);
    register(&logs, "gaia", &json!({ "url": gaia.url() })).await;
    register(&logs, "other", &json!({ "url": other.url() })).await;
    assert_eq!(messages(logs.search("").await["items"].as_array().unwrap()), ["o", "g"]);
    assert_eq!(messages(logs.search("sources=gaia").await["items"].as_array().unwrap()), ["g"]);
    assert!(logs.search("sources=kronos").await["items"].as_array().unwrap().is_empty());
    let asked = gaia.questions().len();
    assert_eq!(gaia.questions()[0].1["kronos-federated"], "1");
    let answer = logs.client().get("/logs").header("kronos-federated", "1").await.expect(200).json();
    assert_eq!((answer["sources"].as_array().unwrap().len(), gaia.questions().len()), (1, asked));
    logs.stop().await;
}

#[tokio::test]
async fn sources_are_registered_listed_replaced_and_removed() {
    let logs = Harness::start().await;
    let client = logs.client();
    let made =
        client.put("/logs/sources/gaia", &json!({ "url": "https://gaia.example/", "token": "t" })).await.expect(201);
    assert_eq!((&made.json()["url"], &made.json()["hasToken"]), (&json!("https://gaia.example"), &json!(true)));
    let replaced =
        client.put("/logs/sources/gaia", &json!({ "url": "http://gaia.example:81/x" })).await.expect(200).json();
    assert_eq!((&replaced["url"], &replaced["hasToken"]), (&json!("http://gaia.example:81/x"), &json!(false)));
    assert_eq!(client.get("/logs/sources/gaia").await.expect(200).json()["name"], "gaia");
    assert_eq!(client.get("/logs/sources").await.expect(200).json()["items"].as_array().unwrap().len(), 1);
    client.delete("/logs/sources/gaia").await.expect(204);
    client.delete("/logs/sources/gaia").await.expect_problem(404, "not_found");
    client.get("/logs/sources/gaia").await.expect_problem(404, "not_found");
    for url in
        ["ftp://a/", "http://", "gaia", "http://u:p@a/", "http://a/?q=1", "http://a/#f", "file:///etc/passwd", ""]
    {
        client.put("/logs/sources/gaia", &json!({ "url": url })).await.expect_problem(422, "invalid_request");
    }
    for token in ["", "two words", "n\u{e9}"] {
        let body = json!({ "url": "http://a/", "token": token });
        client.put("/logs/sources/gaia", &body).await.expect_problem(422, "invalid_request");
    }
    for name in ["kronos", "Gaia", "-a", "a_b", "%C3%A9"] {
        client
            .put(&format!("/logs/sources/{name}"), &json!({ "url": "http://a/" }))
            .await
            .expect_problem(400, "invalid_path");
    }
    logs.client_with(&["logs:read", "logs:write"]).get("/logs/sources").await.expect_problem(403, "permission_denied");
    logs.stop().await;
}
