//! The real process: its log, its traces, its end.

use std::{process::Stdio, sync::Arc, time::Duration};

use axum::{body::Bytes, extract::State, routing::post};
use kronos_testkit::{http, wait_until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    sync::Mutex,
};

use crate::harness::{Instance, World};

type Traces = Arc<Mutex<Vec<u8>>>;

/// Takes OTLP traces.
async fn collector() -> (String, Traces) {
    let traces = Traces::default();
    let router = axum::Router::new()
        .route("/v1/traces", post(async |State(traces): State<Traces>, body: Bytes| traces.lock().await.extend(body)))
        .with_state(Arc::clone(&traces));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, traces)
}

fn spawn(world: &World, traces: &str) -> Child {
    world
        .process()
        .env("KRONOS_HTTP__DRAIN_DELAY_MS", "50")
        .env("KRONOS_GATEWAY__WORKERS", "2")
        .env("KRONOS_TELEMETRY__TRACES_ENDPOINT", traces)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_request_leaves_one_line_and_one_span_and_a_drain_ends_well() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let (endpoint, traces) = collector().await;
    let mut process = spawn(&world, &endpoint);
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut line = async |wanted: &str| -> Value {
        let found = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let line: Value = serde_json::from_str(&line).expect("every line is JSON");
                if line["message"] == wanted && (wanted == "ready" || line["target"] == "router_service::request") {
                    return line;
                }
            }
            panic!("the process ended");
        };
        tokio::time::timeout(Duration::from_secs(60), found).await.expect("the line is written")
    };
    let ready = line("ready").await;
    let gateway = http(ready["api"].as_str().unwrap().parse().unwrap());
    let admin = gateway.bearer(world.issuer.token("admin", &["routes:write"]));
    admin.post("/upstreams", &json!({"name": "echo", "instances": [{"url": echo.url()}]})).await.expect(201);
    admin
        .post("/routes", &json!({"name": "robots", "match": {"path": {"prefix": "/robots"}}, "upstream": "echo"}))
        .await
        .expect(201);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let token = world.issuer.token("user-7", &[]);
    gateway.get("/robots/secret-path?secret=query").bearer(&token).header("traceparent", parent).await.expect(200);
    let written = line("request").await;
    assert_eq!(written["route"], "robots", "{written}");
    assert_eq!((&written["method"], &written["status"]), (&json!("GET"), &json!(200)));
    assert_eq!((&written["subject"], &written["upstream"]), (&json!("user-7"), &json!("echo")));
    assert_eq!(written["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert!(written["response_bytes"].as_u64().unwrap() > 100 && written["complete"] == json!(true), "{written}");
    let text = written.to_string();
    for hidden in ["secret", &token, "127.0.0.1"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }

    let pid = process.id().unwrap();
    let signalled = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap();
    assert!(signalled.success());
    let ended = tokio::time::timeout(Duration::from_secs(30), process.wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(0));
    let trace = [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];
    wait_until("the span was exported", async || {
        let traces = traces.lock().await;
        traces.windows(trace.len()).any(|bytes| bytes == trace)
            && traces.windows(10).any(|bytes| bytes == b"GET robots")
    })
    .await;
}
