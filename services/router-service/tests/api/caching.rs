//! Answers that are kept: given again, checked, given stale, forgotten; and what is never kept.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::any,
};
use futures::future::join_all;
use kronos_testkit::{wait_until, wait_up_to};
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

/// Says what it is told to say, and a number that counts its answers.
#[derive(Clone, Default)]
struct Origin {
    answers: Arc<AtomicU64>,
    /// What it said that the kept answer still holds.
    confirmed: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl Origin {
    fn instance(&self) -> Instance {
        Instance::serve("origin", Router::new().route("/kept/{*rest}", any(say)).with_state(self.clone()))
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }
}

/// `?header-NAME=VALUE` says a header, `status` a status, `ms` how long to think.
async fn say(State(origin): State<Origin>, Query(query): Query<HashMap<String, String>>, asked: HeaderMap) -> Response {
    if origin.broken.load(Ordering::SeqCst) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &query {
        if let Some(name) = name.strip_prefix("header-") {
            headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
    }
    if asked.get("if-none-match").is_some_and(|tag| headers.get("etag") == Some(tag)) {
        origin.confirmed.fetch_add(1, Ordering::SeqCst);
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let count = origin.answers.fetch_add(1, Ordering::SeqCst) + 1;
    let ms = query.get("ms").map_or(0, |ms| ms.parse().unwrap());
    tokio::time::sleep(Duration::from_millis(ms)).await;
    let status = query.get("status").map_or(200, |status| status.parse().unwrap());
    (StatusCode::from_u16(status).unwrap(), headers, format!("answer {count}")).into_response()
}

async fn serve(gateway: &Gateway, origin: &Instance, cache: Value) {
    gateway.upstream("origin", &[origin]).await;
    gateway
        .route(json!({"name": "kept", "match": {"path": {"prefix": "/kept"}}, "upstream": "origin",
                      "authentication": ["jwt", "none"], "cache": cache}))
        .await;
}

async fn with(cache: Value) -> (World, Gateway, Origin, Instance) {
    let origin = Origin::default();
    let instance = origin.instance();
    let world = World::new().await;
    let gateway = world.start().await;
    serve(&gateway, &instance, cache).await;
    (world, gateway, origin, instance)
}

const FRESH: &str = "header-cache-control=max-age=60";

fn status(answer: &kronos_testkit::TestResponse) -> &str {
    answer.header("cache-status").unwrap()
}

#[tokio::test]
async fn a_fresh_answer_is_given_again_with_its_age() {
    let (_world, gateway, origin, _instance) = with(json!({})).await;
    let path = format!("/kept/a?{FRESH}&header-x-robot=7");
    let first = gateway.client.get(&path).await.expect(200);
    assert_eq!((first.text().as_str(), status(&first)), ("answer 1", "kronos; fwd=uri-miss; fwd-status=200; stored"));
    assert!(first.header("age").is_none());
    let again = gateway.client.get(&path).await.expect(200);
    assert_eq!((again.text().as_str(), again.header("x-robot")), ("answer 1", Some("7")));
    assert!(status(&again).starts_with("kronos; hit; ttl="), "{}", status(&again));
    assert!(again.header("age").unwrap().parse::<u64>().unwrap() < 60);
    assert!(again.header("x-request-id").is_some() && again.header("x-frame-options").is_some());
    let head = gateway.client.request(http::Method::HEAD, &path).await.expect(200);
    assert_eq!((head.text().as_str(), head.header("content-length")), ("", Some("8")));
    let other = gateway.client.get(&format!("{path}&other=1")).await.expect(200);
    assert_eq!((other.text().as_str(), origin.answers()), ("answer 2", 2), "another query is another answer");
}

#[tokio::test]
async fn what_must_not_be_kept_is_not() {
    let (world, gateway, origin, _instance) = with(json!({})).await;
    let asked = |more: &str| format!("/kept/x?{more}");
    for (index, more) in [
        "x=1",
        "header-cache-control=no-store",
        "header-cache-control=private,max-age=60",
        "header-cache-control=max-age=60&header-set-cookie=a=b",
        "header-cache-control=max-age=60&header-vary=*",
        "header-cache-control=max-age=60&status=500",
        "header-cache-control=max-age=0",
        "header-cache-control=max-age=x",
        "header-expires=0",
        "header-cache-control=max-age=60&header-content-type=text/event-stream",
    ]
    .into_iter()
    .enumerate()
    {
        for _ in 0..2 {
            let answer = gateway.client.get(&asked(more)).await;
            assert!(!status(&answer).contains("stored") && !status(&answer).contains("hit"), "{more}");
        }
        assert_eq!(origin.answers(), 2 * (index as u64 + 1), "{more}");
    }
    let before = origin.answers();
    // Asked with a token: only if the answer is said to be for all.
    let token = world.issuer.token("user", &[]);
    for (more, expected) in [("max-age=60", 2), ("public,max-age=60", 1), ("s-maxage=60", 1)] {
        let before = origin.answers();
        for _ in 0..2 {
            gateway.client.get(&asked(&format!("header-cache-control={more}"))).bearer(&token).await.expect(200);
        }
        assert_eq!(origin.answers() - before, expected, "{more}");
    }
    assert!(origin.answers() > before);
}

#[tokio::test]
async fn an_answer_is_for_the_host_scheme_and_headers_that_it_was_asked_with() {
    let (_world, gateway, _origin, _instance) = with(json!({})).await;
    let path = format!("/kept/v?{FRESH}&header-vary=accept-language");
    let ask = async |host: &str, language: &str| {
        let answer = gateway.client.get(&path).header("host", host).header("accept-language", language).await;
        answer.expect(200).text()
    };
    assert_eq!(ask("a.example", "fr").await, "answer 1");
    assert_eq!(ask("a.example", "en").await, "answer 2");
    assert_eq!(ask("b.example", "fr").await, "answer 3");
    assert_eq!(ask("a.example", "fr").await, "answer 1");
    assert_eq!(ask("A.EXAMPLE", "en").await, "answer 2", "a host has no case");
    assert_eq!(ask("b.example", "fr").await, "answer 3");
}

#[tokio::test]
async fn a_stale_answer_is_checked_and_a_client_with_a_copy_is_told() {
    let (_world, gateway, origin, _instance) = with(json!({})).await;
    let path = "/kept/e?header-cache-control=max-age=0&header-etag=%22one%22";
    gateway.client.get(path).await.expect(200);
    let again = gateway.client.get(path).await.expect(200);
    assert_eq!((again.text().as_str(), origin.confirmed.load(Ordering::SeqCst)), ("answer 1", 1));
    assert!(status(&again).starts_with("kronos; fwd=stale; fwd-status=304; stored"), "{}", status(&again));
    let fresh = "/kept/f?header-cache-control=max-age=60&header-etag=%22two%22";
    gateway.client.get(fresh).await.expect(200);
    let told = gateway.client.get(fresh).header("if-none-match", "\"other\", W/\"two\"").await.expect(304);
    assert_eq!((told.text().as_str(), told.header("etag")), ("", Some("\"two\"")));
    gateway.client.get(fresh).header("if-none-match", "\"other\"").await.expect(200);
    // A client may insist.
    let before = origin.confirmed.load(Ordering::SeqCst);
    gateway.client.get(fresh).header("cache-control", "no-cache").await.expect(200);
    assert_eq!(origin.confirmed.load(Ordering::SeqCst), before + 1);
    gateway.client.get("/kept/none").header("cache-control", "only-if-cached").await.expect_problem(504, "not_cached");
}

#[tokio::test]
async fn a_stale_answer_is_given_while_a_new_one_is_fetched() {
    let (_world, gateway, origin, _instance) = with(json!({})).await;
    let path = "/kept/s?header-cache-control=max-age=1,stale-while-revalidate=600";
    gateway.client.get(path).await.expect(200);
    wait_up_to(Duration::from_secs(20), "it is stale, given, and renewed", async || {
        let answer = gateway.client.get(path).await.expect(200);
        let is_stale = status(&answer).contains("stale-while-revalidate");
        is_stale && answer.text() == "answer 1"
    })
    .await;
    wait_until("the new one is there", async || origin.answers() == 2).await;
    wait_until("and given", async || gateway.client.get(path).await.expect(200).text() != "answer 1").await;
}

#[tokio::test]
async fn a_stale_answer_stands_in_for_a_failing_upstream() {
    let (_world, gateway, origin, _instance) = with(json!({"staleIfErrorSeconds": 600})).await;
    let path = "/kept/s?header-cache-control=max-age=0&header-etag=%22a%22";
    let strict = "/kept/t?header-cache-control=max-age=0,must-revalidate&header-etag=%22b%22";
    gateway.client.get(path).await.expect(200);
    gateway.client.get(strict).await.expect(200);
    origin.broken.store(true, Ordering::SeqCst);
    let answer = gateway.client.get(path).await.expect(200);
    assert_eq!(answer.text(), "answer 1");
    assert!(status(&answer).contains("stale-if-error"));
    gateway.client.get(strict).await.expect(502);
}

#[tokio::test]
async fn of_many_that_want_the_same_one_asks() {
    let (_world, gateway, origin, _instance) = with(json!({})).await;
    let path = format!("/kept/m?{FRESH}&ms=300");
    let answers = join_all((0..30).map(async |_| gateway.client.get(&path).await.expect(200))).await;
    assert!(answers.iter().all(|answer| answer.text() == "answer 1"));
    assert_eq!(origin.answers(), 1);
    assert!(answers.iter().any(|answer| status(answer).contains("collapsed")));
}

#[tokio::test]
async fn what_is_kept_is_given_by_every_gateway_and_forgotten_by_every_one() {
    let (world, gateway, origin, _instance) = with(json!({})).await;
    let twin = world.start().await;
    let path = format!("/kept/p?{FRESH}&header-cache-tags=robots,robot-7");
    let ask = async |gateway: &Gateway| {
        let answer = gateway.client.get(&path).header("host", "robots.example").await.expect(200);
        assert!(answer.header("cache-tags").is_none(), "it is for the gateway");
        answer.text()
    };
    assert_eq!(ask(&gateway).await, "answer 1");
    wait_until("the twin has it from Redis", async || ask(&twin).await == "answer 1" && origin.answers() == 1).await;
    let url = format!("http://robots.example{path}");
    for (purge, expected) in [
        (json!({"tags": ["robot-7"]}), "answer 2"),
        (json!({"routes": ["kept"]}), "answer 3"),
        (json!({"urls": [url]}), "answer 4"),
    ] {
        gateway.admin.post("/routes/purge", &purge).await.expect(204);
        assert_eq!(ask(&gateway).await, expected, "here at once");
        wait_until("and at the twin", async || ask(&twin).await == expected).await;
    }
    gateway.admin.post("/routes/purge", &json!({"tags": ["robot-8"]})).await.expect(204);
    assert_eq!(ask(&gateway).await, "answer 4");
    let bad = json!({"tags": ["a,b"], "urls": ["nowhere"]});
    let problem = gateway.admin.post("/routes/purge", &bad).await.expect_problem(422, "invalid_request").json();
    assert_eq!(
        (&problem["errors"][0]["pointer"], &problem["errors"][1]["pointer"]),
        (&json!("/tags/0"), &json!("/urls/0"))
    );
    gateway.admin.post("/routes/purge", &json!({})).await.expect_problem(422, "invalid_request");
    gateway.client.post("/routes/purge", &json!({})).await.expect_problem(401, "token_missing");
}

#[tokio::test]
async fn a_change_makes_the_kept_answer_useless() {
    let (_world, gateway, _origin, _instance) = with(json!({})).await;
    let path = format!("/kept/c?{FRESH}");
    assert_eq!(gateway.client.get(&path).await.expect(200).text(), "answer 1");
    gateway.client.post(&path, &json!({})).await.expect(200);
    wait_until("it is asked for again", async || gateway.client.get(&path).await.expect(200).text() == "answer 3")
        .await;
}

#[tokio::test]
async fn what_is_too_large_or_breaks_off_is_not_kept() {
    let (_world, gateway, origin, _instance) = with(json!({"objectLimitBytes": 5})).await;
    let path = format!("/kept/l?{FRESH}");
    for _ in 0..2 {
        gateway.client.get(&path).await.expect(200);
    }
    assert_eq!(origin.answers(), 2);
}
