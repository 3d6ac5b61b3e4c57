//! The life of a service and the layers around its handlers, over real sockets; no store is needed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use futures::FutureExt as _;
use kronos_common::{
    config,
    extract::{Json, Path, Query},
    problem::Problem,
    service::{self, Context, Criticality, Running},
    trace,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Robot {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    limit: Option<u32>,
}

#[utoipa::path(post, path = "/robots", request_body = Robot, responses((status = 200)))]
async fn create_robot(Json(robot): Json<Robot>) -> Json<Robot> {
    Json(robot)
}

#[utoipa::path(get, path = "/robots", responses((status = 200)))]
async fn list_robots(Query(filter): Query<Filter>) -> Json<Value> {
    Json(json!({ "limit": filter.limit }))
}

#[utoipa::path(get, path = "/robots/{id}", params(("id" = u32, Path)), responses((status = 200)))]
async fn show_robot(Path(id): Path<u32>) -> Json<Value> {
    Json(json!({ "id": id, "trace": trace::current().unwrap().trace_id_text() }))
}

#[utoipa::path(get, path = "/panic", responses((status = 200)))]
async fn panic() -> Result<Json<Value>, Problem> {
    panic!("the secret is 4711")
}

fn http() -> config::Http {
    config::Http {
        bind: "127.0.0.1:0".parse().unwrap(),
        operations_bind: "127.0.0.1:0".parse().unwrap(),
        body_limit_bytes: 1_024,
        request_timeout_ms: 5_000,
        drain_delay_ms: 0,
        drain_deadline_ms: 5_000,
        request_lines_per_second: 100,
    }
}

async fn start(prepare: impl FnOnce(&Context)) -> Running {
    let connect = |context: Context| async move {
        prepare(&context);
        Ok(OpenApiRouter::new()
            .routes(routes!(create_robot, list_robots))
            .routes(routes!(show_robot))
            .routes(routes!(panic)))
    };
    service::start("robot-service", &http(), connect).await.unwrap()
}

async fn get(url: String) -> (StatusCode, Value) {
    let response = reqwest::get(url).await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn everything_that_is_wrong_is_a_problem() {
    let running = start(|_| {}).await;
    let client = reqwest::Client::new();
    let robots = format!("http://{}/robots", running.api);
    let json = "application/json";
    let post = |kind: &'static str, body: String| client.post(&robots).header("content-type", kind).body(body);
    for (request, status, code) in [
        (client.get(format!("{robots}/none/such")), 404, "not_found"),
        (client.delete(&robots), 405, "method_not_allowed"),
        (client.get(format!("{robots}/one")), 400, "invalid_path"),
        (client.get(format!("{robots}?limit=many")), 400, "invalid_query"),
        (client.get(format!("{robots}?limti=1")), 400, "invalid_query"),
        (post("text/plain", "{}".into()), 415, "unsupported_media_type"),
        (post(json, "{".into()), 400, "malformed_json"),
        (post(json, "{}".into()), 422, "invalid_request"),
        (post(json, r#"{"name": 1, "size": 2}"#.into()), 422, "invalid_request"),
        (post(json, format!(r#"{{"name": "{}"}}"#, "x".repeat(2_000))), 413, "body_too_large"),
        (client.get(format!("http://{}/panic", running.api)), 500, "internal"),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{code}");
        assert_eq!(response.status().as_u16(), status, "{code}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["code"], code);
        assert_eq!(body["traceId"].as_str().map(str::len), Some(32), "{body}");
        assert!(!body.to_string().contains("4711"), "{body}");
    }
    running.stop().await;
}

/// A caller that sends all before it reads, as many do, on a connection that would be reset by an early close.
#[tokio::test]
async fn who_sends_far_too_much_still_hears_why_it_was_refused() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let running = start(|_| {}).await;
    let mut stream = tokio::net::TcpStream::connect(running.api).await.unwrap();
    let body = vec![b'x'; 8 * 1024 * 1024];
    let head = format!(
        "POST /robots HTTP/1.1\r\nhost: kronos\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    running.stop().await;
}

#[tokio::test]
async fn the_callers_trace_goes_on() {
    let running = start(|_| {}).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let response = reqwest::Client::new()
        .get(format!("http://{}/robots/7", running.api))
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.json::<Value>().await.unwrap()["trace"], trace);
    running.stop().await;
}

#[tokio::test]
async fn only_a_critical_dependency_that_is_away_makes_the_service_not_ready() {
    let up = Arc::new(AtomicBool::new(false));
    let check = up.clone();
    let running = start(move |context| {
        context.depends_on("store", Criticality::Critical, move || {
            let up = check.load(Ordering::Relaxed);
            async move { if up { Ok(()) } else { Err(anyhow::anyhow!("away")) } }.boxed()
        });
        context.depends_on("cache", Criticality::Degraded, || async { Err(anyhow::anyhow!("away")) }.boxed());
    })
    .await;
    let ready = format!("http://{}/ready", running.operations);
    let (status, body) = get(ready.clone()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    up.store(true, Ordering::Relaxed);
    kronos_testkit::wait_until("the store to be seen again", async || get(ready.clone()).await.0 == StatusCode::OK)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_request_under_way_is_finished_while_new_ones_are_refused() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, may_leave) = (entered.clone(), leave.clone());
    let slow = move || async move {
        inside.notify_one();
        may_leave.notified().await;
        "done"
    };
    let connect = |_| async move { Ok(OpenApiRouter::new().route("/slow", axum::routing::get(slow))) };
    let running = service::start("robot-service", &http(), connect).await.unwrap();
    let (api, ready) = (running.api, format!("http://{}/ready", running.operations));
    let under_way = tokio::spawn(reqwest::get(format!("http://{api}/slow")));
    entered.notified().await;
    let stopping = tokio::spawn(running.stop());
    kronos_testkit::wait_until("the drain to begin", async || {
        get(ready.clone()).await.0 == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    kronos_testkit::wait_until("the listener to close", async || tokio::net::TcpStream::connect(api).await.is_err())
        .await;
    leave.notify_one();
    assert_eq!(under_way.await.unwrap().unwrap().text().await.unwrap(), "done");
    tokio::time::timeout(Duration::from_secs(5), stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut http = http();
    http.bind = holder.local_addr().unwrap();
    let error = service::start("robot-service", &http, |_| async { Ok(OpenApiRouter::new()) }).await.unwrap_err();
    assert!(format!("{error:#}").contains(&http.bind.to_string()), "{error:#}");
}

#[tokio::test]
async fn requests_are_measured_by_route_template_however_many_paths_are_asked() {
    let running = start(|_| {}).await;
    for id in 0..50 {
        assert_eq!(get(format!("http://{}/robots/{id}", running.api)).await.0, StatusCode::OK);
        assert_eq!(get(format!("http://{}/nothing/{id}", running.api)).await.0, StatusCode::NOT_FOUND);
    }
    let metrics = reqwest::get(format!("http://{}/metrics", running.operations)).await.unwrap().text().await.unwrap();
    let count = |line: &&str| line.starts_with("kronos_http_request_seconds_count");
    let counts: Vec<&str> = metrics.lines().filter(count).collect();
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!(counts.iter().any(|line| line.contains("/robots/{id}") && line.ends_with(" 50")), "{counts:?}");
    running.stop().await;
}

#[tokio::test]
async fn the_service_describes_itself() {
    let running = start(|_| {}).await;
    let (_, document) = get(format!("http://{}/openapi.json", running.api)).await;
    assert!(document["paths"]["/robots/{id}"]["get"].is_object(), "{document}");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    assert_eq!(get(format!("http://{}/version", running.operations)).await.1["service"], "robot-service");
    running.stop().await;
}
