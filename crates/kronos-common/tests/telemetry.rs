//! What a process tells of itself: traces to an OTLP collector, log lines to log-service, also after it was away. The
//! pipeline belongs to the process, so this binary has one test.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use kronos_common::{
    config,
    identity::ServiceToken,
    service, telemetry,
    trace::{TRACEPARENT, TraceContext},
};
use kronos_testkit::wait_until;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

/// Plays the trace collector, log-service and auth-service's token endpoint.
#[derive(Clone, Default)]
struct Receiver {
    traces: Arc<Mutex<Vec<Vec<u8>>>>,
    lines: Arc<Mutex<Vec<Value>>>,
    logs_away: Arc<AtomicBool>,
}

impl Receiver {
    async fn start(&self) -> String {
        let router = Router::new()
            .route("/v1/traces", post(take_traces))
            .route("/v1/logs", post(take_lines))
            .route("/oauth/token", post(give_token))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn has_line(&self, message: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line["body"]["stringValue"] == message)
    }
}

async fn take_traces(State(receiver): State<Receiver>, body: Bytes) {
    receiver.traces.lock().unwrap().push(body.to_vec());
}

async fn take_lines(State(receiver): State<Receiver>, headers: HeaderMap, Json(body): Json<Value>) -> StatusCode {
    if receiver.logs_away.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    assert_eq!(headers["authorization"], "Bearer a-token");
    let resource = &body["resourceLogs"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "robot-service");
    let lines = resource["scopeLogs"][0]["logRecords"].as_array().unwrap().clone();
    receiver.lines.lock().unwrap().extend(lines);
    StatusCode::OK
}

async fn give_token() -> Json<Value> {
    Json(json!({ "access_token": "a-token", "token_type": "Bearer", "expires_in": 600 }))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_log_lines_arrive_even_when_log_service_was_away() {
    service::install_crypto();
    let receiver = Receiver::default();
    receiver.logs_away.store(true, Ordering::Relaxed);
    let url = receiver.start().await;
    let mut telemetry = telemetry::init(
        "robot-service",
        &config::Telemetry {
            log_level: "info".into(),
            traces_endpoint: Some(url.clone()),
            logs_endpoint: Some(url.clone()),
            trace_sample_ratio: 1.0,
        },
    )
    .unwrap();
    let token = ServiceToken::new(&config::Identity {
        issuer: url.clone(),
        audience: "kronos".into(),
        jwks_url: format!("{url}/jwks"),
        auth_url: url.clone(),
        user_url: String::new(),
        client_id: "robot-service".into(),
        client_secret: "secret".into(),
    })
    .unwrap();
    let end = CancellationToken::new();
    let shipping = tokio::spawn(telemetry.take_shipping().unwrap().ship(url.clone(), token, end.clone()));

    let http = config::Http {
        bind: "127.0.0.1:0".parse().unwrap(),
        operations_bind: "127.0.0.1:0".parse().unwrap(),
        body_limit_bytes: 1_024,
        request_timeout_ms: 5_000,
        drain_delay_ms: 0,
        drain_deadline_ms: 5_000,
        request_lines_per_second: 100,
    };
    let hello = axum::routing::get(async || {
        tracing::warn!(robot = "R-42", "the gripper overheats");
        "hello"
    });
    let running =
        service::start("robot-service", &http, |_| async move { Ok(OpenApiRouter::new().route("/hello", hello)) })
            .await
            .unwrap();
    let caller = TraceContext::random(true);
    let request = reqwest::Client::new().get(format!("http://{}/hello", running.api));
    request.header(TRACEPARENT, caller.to_string()).send().await.unwrap().error_for_status().unwrap();

    assert!(!receiver.has_line("the gripper overheats"), "log-service is away");
    receiver.logs_away.store(false, Ordering::Relaxed);
    wait_until("the line to arrive once log-service is back", async || receiver.has_line("the gripper overheats"))
        .await;
    let line = receiver.lines.lock().unwrap().iter().find(|line| line["severityText"] == "warn").cloned().unwrap();
    assert_eq!(line["traceId"], caller.trace_id_text());
    assert!(
        line["attributes"].as_array().unwrap().contains(&json!({ "key": "robot", "value": { "stringValue": "R-42" } }))
    );

    running.stop().await;
    end.cancel();
    shipping.await.unwrap();
    assert!(receiver.has_line("stopped"), "what is left is sent at the end");
    tokio::task::spawn_blocking(move || telemetry.finish()).await.unwrap();
    let traces = receiver.traces.lock().unwrap().concat();
    assert!(contains(&traces, &caller.trace_id.to_be_bytes()), "the span is part of the caller's trace");
    assert!(contains(&traces, b"GET /hello") && contains(&traces, b"robot-service"));
}
