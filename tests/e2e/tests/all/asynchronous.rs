//! A route that answers 202: the request reaches its upstream whatever is killed meanwhile, and its result is its owner's alone.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use kronos_e2e::api::{Api, text};
use kronos_testkit::{unique, wait_up_to};
use serde_json::{Value, json};

use crate::platform::Platform;

const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked of the upstream, and whether it is well.
#[derive(Clone, Default)]
struct Upstream {
    well: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>,
}

async fn serve(State(upstream): State<Upstream>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let target = parts.uri.path_and_query().unwrap().to_string();
    upstream.asked.lock().unwrap().push((target.clone(), parts.headers, body));
    if !upstream.well.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    (StatusCode::CREATED, [("location", "/reports/7")], Json(json!({ "made": target }))).into_response()
}

async fn person(platform: &Platform, admin: &Api) -> (String, Api) {
    let (name, password) = (unique("person"), "a long enough password 7");
    let user =
        json!({ "username": name, "email": format!("{name}@example.com"), "displayName": "P", "password": password });
    let made = admin.post("/users", &user).await.unwrap().expect(201).unwrap();
    (text(&made, "id").unwrap(), Api::login(&platform.target, &name, password).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_request_survives_the_gateway_and_messaging_service() {
    let mut platform = Platform::start().await;
    let admin = Api::administrator(&platform.target).await.unwrap();
    let upstream = Upstream::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(serve).with_state(upstream.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let reports = json!({ "name": "reports", "instances": [{ "url": url }] });
    admin.post("/upstreams", &reports).await.unwrap().expect(201).unwrap();
    let route = json!({
        "name": "reports", "match": { "path": { "prefix": "/reports" } }, "upstream": "reports",
        "async": { "attempts": 20, "keepSeconds": 600 },
    });
    admin.post("/routes", &route).await.unwrap().expect(201).unwrap();
    let ((owner_id, owner), (_, other)) = (person(&platform, &admin).await, person(&platform, &admin).await);

    // The first one finds the queue being made.
    let mut accepted = None;
    wait_up_to(PATIENCE, "the request is accepted", async || {
        let answer = owner.post("/reports?year=2026", &json!({ "robot": "R-42" })).await.unwrap();
        assert!([202, 503].contains(&answer.status.as_u16()), "{}", answer.json);
        accepted = (answer.status == 202).then_some(answer);
        accepted.is_some()
    })
    .await;
    let accepted = accepted.unwrap();
    assert_eq!(accepted.json["state"], "pending");
    let location = accepted.headers["location"].to_str().unwrap().to_owned();
    let state = async || owner.get(&location).await.unwrap();
    assert_eq!(state().await.expect(200).unwrap()["state"], "pending");
    for stranger in [&other, &Api::anonymous(&platform.target).unwrap()] {
        let status = stranger.get(&location).await.unwrap().status;
        assert!([401, 403].contains(&status.as_u16()), "{status}");
    }

    // It was tried, and is tried again.
    wait_up_to(PATIENCE, "the upstream was asked", async || !upstream.asked.lock().unwrap().is_empty()).await;
    platform.kill("router-service").await;
    platform.kill("messaging-service").await;
    let before = upstream.asked.lock().unwrap().len();
    upstream.well.store(true, Ordering::SeqCst);
    platform.restart("messaging-service").await;
    platform.restart("router-service").await;
    let mut done = Value::Null;
    wait_up_to(PATIENCE, "the result is there", async || {
        let answer = state().await;
        done = answer.json;
        answer.status == 200 && done["state"] != "pending"
    })
    .await;
    assert_eq!(done["state"], "done", "{done}");
    let payload = &done["payload"];
    assert_eq!((&payload["status"], &payload["headers"]["location"]), (&json!(201), &json!("/reports/7")));
    assert_eq!(payload["body"]["made"], "/reports?year=2026");

    let asked = upstream.asked.lock().unwrap().clone();
    assert!(asked.len() > before, "it was asked again");
    let keys: Vec<_> = asked.iter().map(|(_, headers, _)| headers["idempotency-key"].clone()).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "every time under the same key");
    for (target, headers, body) in &asked {
        assert_eq!(target, "/reports?year=2026");
        assert_eq!(headers["x-kronos-subject"], owner_id.as_str());
        assert!(!headers.contains_key("authorization"), "the token stays here");
        assert_eq!(serde_json::from_slice::<Value>(body).unwrap(), json!({ "robot": "R-42" }));
    }
}
