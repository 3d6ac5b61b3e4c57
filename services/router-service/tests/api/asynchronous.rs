//! Routes that answer 202: what is given to messaging-service, and what becomes of it. messaging-service is played here; the
//! real one is in the tests of the whole platform.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use kronos_testkit::{TestClient, wait_until};
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

const ID: &str = "0192d5f0-0000-7000-8000-000000000001";

/// What messaging-service was told, and what it has to give.
#[derive(Clone, Default)]
struct Messaging {
    asked: Arc<Mutex<Vec<(Value, Value)>>>,
    said: Arc<Mutex<Vec<(String, Value)>>>,
    waiting: Arc<Mutex<Vec<Value>>>,
}

impl Messaging {
    fn router(&self) -> Router {
        Router::new()
            .route("/topics", post(async || (StatusCode::CREATED, Json(json!({})))))
            .route("/request/{topic}", post(ask))
            .route("/subscribe/{topic}", get(take))
            .route("/{verb}/{id}", post(say))
            .with_state(self.clone())
    }

    fn heard(&self, verb: &str) -> Vec<Value> {
        let said = self.said.lock().unwrap();
        said.iter().filter(|(said, _)| said == verb).map(|(_, body)| body.clone()).collect()
    }
}

async fn ask(State(messaging): State<Messaging>, Query(query): Query<Value>, Json(body): Json<Value>) -> Response {
    let message = json!({ "messageId": ID, "deliveryId": "d1", "attempt": 1, "payload": body["payload"] });
    messaging.asked.lock().unwrap().push((query, body));
    messaging.waiting.lock().unwrap().push(message);
    (StatusCode::ACCEPTED, Json(json!({ "messageId": ID, "status": "waiting" }))).into_response()
}

async fn take(State(messaging): State<Messaging>) -> Json<Value> {
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    Json(json!({ "messages": messaging.waiting.lock().unwrap().drain(..).collect::<Vec<_>>() }))
}

async fn say(
    State(messaging): State<Messaging>,
    Path((verb, id)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    if verb == "retry" {
        let attempt = 1 + messaging.heard("retry").len() as u64;
        let (_, asked) = messaging.asked.lock().unwrap().last().cloned().unwrap();
        let again = json!({ "messageId": ID, "deliveryId": id, "attempt": attempt + 1, "payload": asked["payload"] });
        messaging.waiting.lock().unwrap().push(again);
    }
    messaging.said.lock().unwrap().push((verb, body));
    Json(json!({})).into_response()
}

async fn gateway(messaging: &Instance) -> (World, Gateway) {
    let mut world = World::new().await;
    world.config.services.messaging_url = messaging.url();
    let gateway = world.start().await;
    (world, gateway)
}

fn nora(world: &World, gateway: &Gateway) -> TestClient {
    gateway.client.bearer(world.issuer.token("nora", &[]))
}

#[tokio::test]
async fn a_request_is_accepted_passed_on_and_its_answer_kept() {
    let messaging = Messaging::default();
    let (played, echo) = (Instance::serve("messaging", messaging.router()), Instance::start("one"));
    let (world, gateway) = gateway(&played).await;
    gateway.upstream("echo", &[&echo]).await;
    gateway
        .route(json!({"name": "later", "match": {"path": {"prefix": "/later"}}, "upstream": "echo",
                      "rewrite": {"prefix": "/made"}, "async": {"keepSeconds": 90}}))
        .await;
    let call = nora(&world, &gateway).post("/later/7?full=1", &json!({"robot": "R-42"}));
    let call = call.header("cookie", "a=b").header("x-colour", "blue").header("x-kronos-subject", "admin");
    let answer = call.await.expect(202);
    assert_eq!(answer.header("location"), Some(format!("/requests/{ID}").as_str()));
    assert_eq!(answer.json()["state"], "pending");
    let (query, _) = messaging.asked.lock().unwrap()[0].clone();
    assert_eq!(query, json!({"owner": "nora", "timeoutMs": "90000"}));

    wait_until("its answer is kept", async || !messaging.heard("ack").is_empty()).await;
    let reply = messaging.heard("reply").pop().unwrap();
    assert_eq!((&reply["headers"]["outcome"], &reply["payload"]["status"]), (&json!("done"), &json!(200)));
    let seen = &reply["payload"]["body"];
    assert_eq!((&seen["method"], &seen["path"], &seen["query"]), (&json!("POST"), &json!("/made/7"), &json!("full=1")));
    assert_eq!(seen["body"], r#"{"robot":"R-42"}"#);
    let headers = &seen["headers"];
    assert_eq!((&headers["x-colour"], &headers["x-kronos-subject"]), (&json!(["blue"]), &json!(["nora"])));
    assert_eq!(headers["idempotency-key"], json!([ID]));
    assert!(headers["authorization"].is_null() && headers["cookie"].is_null(), "{headers}");
    gateway.running.stop().await;
}

#[tokio::test]
async fn what_fails_is_tried_again_and_in_the_end_has_failed() {
    let messaging = Messaging::default();
    let (played, echo) = (Instance::serve("messaging", messaging.router()), Instance::start("one"));
    let (world, gateway) = gateway(&played).await;
    gateway.upstream("echo", &[&echo]).await;
    gateway
        .route(json!({"name": "later", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo",
                      "async": {"attempts": 3}}))
        .await;
    nora(&world, &gateway).post("/echo/status/503", &json!({})).await.expect(202);
    wait_until("it is given up", async || !messaging.heard("ack").is_empty()).await;
    assert_eq!((messaging.heard("retry").len(), echo.requests()), (2, 3));
    let reply = messaging.heard("reply").pop().unwrap();
    assert_eq!(reply["headers"]["outcome"], "failed", "{reply}");
    // What the service itself says is its answer.
    nora(&world, &gateway).post("/echo/status/418", &json!({})).await.expect(202);
    wait_until("it is answered", async || messaging.heard("reply").len() == 2).await;
    assert_eq!(messaging.heard("reply")[1]["payload"]["status"], 418);
    gateway.running.stop().await;
}

#[tokio::test]
async fn what_cant_be_kept_is_refused() {
    let echo = Instance::start("one");
    let gone = Instance::start("messaging");
    let (world, gateway) = gateway(&gone).await;
    gone.kill();
    gateway.upstream("echo", &[&echo]).await;
    gateway
        .route(json!({"name": "later", "match": {"path": {"prefix": "/later"}}, "upstream": "echo",
                      "async": {"bodyLimitBytes": 10}}))
        .await;
    let nora = nora(&world, &gateway);
    let answer = nora.post("/later", &json!({})).await.expect_problem(503, "not_accepted");
    assert!(answer.header("retry-after").is_some());
    nora.post("/later", &json!({"far": "too much"})).await.expect_problem(413, "body_too_large");
    gateway.client.post("/later", &json!({})).await.expect_problem(401, "token_missing");
    assert_eq!(echo.requests(), 0);
    let described = json!({"method": "POST", "path": "/later"});
    let explained = gateway.admin.post("/routes/explain", &described).await.expect(200).json();
    assert_eq!(explained["route"]["async"], json!({"bodyLimitBytes": 10, "attempts": 5, "keepSeconds": 3600}));
    gateway.running.stop().await;
}

#[tokio::test]
async fn every_mistake_in_the_policy_is_named() {
    let echo = Instance::start("one");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let route = json!({"name": "x", "match": {"path": {"prefix": "/x"}}, "upstream": "echo", "authentication": ["none"],
        "cache": {}, "async": {"bodyLimitBytes": 200_000, "attempts": 0, "keepSeconds": 5}});
    let answer = gateway.admin.post("/routes", &route).await.expect_problem(422, "invalid_request").json();
    let mut wrong: Vec<(&str, &str)> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["pointer"].as_str().unwrap(), error["code"].as_str().unwrap()))
        .collect();
    wrong.sort_unstable();
    let expected = [
        ("/async", "needs_token"),
        ("/async", "not_with_cache_mirror_redirect"),
        ("/async/attempts", "out_of_range"),
        ("/async/bodyLimitBytes", "out_of_range"),
        ("/async/keepSeconds", "out_of_range"),
    ];
    assert_eq!(wrong, expected, "{answer}");
    gateway.running.stop().await;
}
