//! A gateway in this process, with its own database, Redis prefix and issuer, and instances that can be killed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State, ws::WebSocketUpgrade},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use http_body_util::BodyExt as _;
use kronos_common::{
    config,
    service::{Context, Running},
};
use kronos_testkit::{Issuer, TestClient, TestDatabase, http, test_redis};
use router_service::{Config, DEFAULTS};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

/// Everything that a test's gateways share.
pub(crate) struct World {
    pub(crate) issuer: Issuer,
    pub(crate) database: TestDatabase,
    pub(crate) config: Config,
}

impl World {
    pub(crate) async fn new() -> Self {
        let issuer = Issuer::start().await;
        let database = TestDatabase::create().await;
        let mut config: Config = config::load(DEFAULTS, None, &HashMap::new()).unwrap();
        config.http.bind = "127.0.0.1:0".parse().unwrap();
        config.http.operations_bind = config.http.bind;
        config.http.drain_deadline_ms = 15_000;
        config.postgres = database.config("kronos_router");
        config.redis = test_redis();
        config.identity = issuer.config();
        config.gateway.workers = 1;
        config.gateway.table_path = String::new();
        // On a busy machine Redis is late, which is not what is tested.
        config.limits.redis_timeout_ms = 500;
        config.cache.redis_timeout_ms = 500;
        config.audit.requests = false;
        Self { issuer, database, config }
    }

    /// The real process, where a gateway in this one is not enough.
    pub(crate) fn process(&self) -> Command {
        let config = &self.config;
        let mut process = Command::new(env!("CARGO_BIN_EXE_router-service"));
        process
            .env("KRONOS_HTTP__BIND", "127.0.0.1:0")
            .env("KRONOS_HTTP__OPERATIONS_BIND", "127.0.0.1:0")
            .env("KRONOS_POSTGRES__URL", config.postgres.url.expose_secret())
            .env("KRONOS_REDIS__URL", config.redis.url.expose_secret())
            .env("KRONOS_REDIS__PREFIX", &config.redis.prefix)
            .env("KRONOS_IDENTITY__ISSUER", &config.identity.issuer)
            .env("KRONOS_IDENTITY__JWKS_URL", &config.identity.jwks_url)
            .env("KRONOS_IDENTITY__AUTH_URL", &config.identity.auth_url)
            .env("KRONOS_GATEWAY__TABLE_PATH", "")
            .env("KRONOS_AUDIT__REQUESTS", "false")
            .kill_on_drop(true);
        process
    }

    pub(crate) async fn start(&self) -> Gateway {
        self.start_with(self.config.clone()).await
    }

    pub(crate) async fn start_with(&self, config: Config) -> Gateway {
        let running = router_service::start(config).await.unwrap();
        let client = http(running.api);
        let admin = client.bearer(self.issuer.token("admin", &["routes:read", "routes:write"]));
        Gateway { running, client, admin }
    }
}

/// An address that nobody listens at.
pub(crate) fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) running: Running,
    /// Without a token.
    pub(crate) client: TestClient,
    /// May change routes.
    pub(crate) admin: TestClient,
}

impl Gateway {
    /// A world with one gateway and one anonymous route, `/echo`, to the instances.
    pub(crate) async fn with_echo(instances: &[&Instance]) -> (World, Self) {
        let world = World::new().await;
        let gateway = world.start().await;
        gateway.echo(instances).await;
        (world, gateway)
    }

    pub(crate) async fn echo(&self, instances: &[&Instance]) {
        self.upstream("echo", instances).await;
        self.route(json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo",
                          "authentication": ["none"]}))
            .await;
    }

    pub(crate) async fn upstream(&self, name: &str, instances: &[&Instance]) -> Value {
        let instances: Vec<Value> = instances.iter().map(|instance| json!({"url": instance.url()})).collect();
        self.admin.post("/upstreams", &json!({"name": name, "instances": instances})).await.expect(201).json()
    }

    pub(crate) async fn route(&self, route: Value) -> Value {
        self.admin.post("/routes", &route).await.expect(201).json()
    }

    /// A raw connection.
    pub(crate) async fn socket(&self) -> Socket {
        Socket(TcpStream::connect(self.running.api).await.unwrap())
    }

    pub(crate) async fn metrics(&self) -> String {
        http(self.running.operations).get("/metrics").await.expect(200).text()
    }

    /// The sum of a metric's samples whose labels contain all `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics().await;
        let samples =
            text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// Bytes in, bytes out.
pub(crate) struct Socket(pub(crate) TcpStream);

impl Socket {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// What comes until `end` or the end of the stream, at most for thirty seconds.
    pub(crate) async fn read_until(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        let read = async {
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&all).contains(end) {
                match self.0.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => all.extend_from_slice(&buffer[..count]),
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(30), read).await;
        String::from_utf8_lossy(&all).into_owned()
    }

    /// What comes until the other side closes; panics if it does not within thirty.
    pub(crate) async fn read_to_end(&mut self) -> String {
        let mut all = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), self.0.read_to_end(&mut all)).await;
        // A reset is an end too.
        let _ = read.expect("the connection is closed");
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// An instance: a server in a thread of its own, so that it can be killed with all its connections.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicU64>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Echo {
    name: &'static str,
    requests: Arc<AtomicU64>,
}

impl Instance {
    pub(crate) fn start(name: &'static str) -> Self {
        Self::serve(name, Router::new())
    }

    /// The echo's paths and those of `more`.
    pub(crate) fn serve(name: &'static str, more: Router) -> Self {
        let requests = Arc::new(AtomicU64::new(0));
        let echo = Echo { name, requests: Arc::clone(&requests) };
        let router = Router::new()
            .route("/echo/slow/{ms}", get(slow))
            .route("/echo/status/{status}", any(status))
            .route("/echo/events", get(events))
            .route("/echo/socket", get(socket))
            .route("/echo/stream", any(stream))
            .route("/echo/headers", get(inside))
            .fallback(show)
            .with_state(echo)
            .merge(more);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, requests, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Ends the server and resets its connections.
    pub(crate) fn kill(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Says what it got.
async fn show(State(echo): State<Echo>, request: Request) -> Response {
    echo.requests.fetch_add(1, Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut headers: HashMap<String, Vec<String>> = HashMap::new();
    for (name, value) in &parts.headers {
        headers.entry(name.to_string()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(256)]).into_owned();
    Json(json!({
        "instance": echo.name, "method": parts.method.as_str(), "path": parts.uri.path(), "query": parts.uri.query(),
        "headers": headers, "bytes": body.len(), "body": text,
    }))
    .into_response()
}

async fn slow(State(echo): State<Echo>, Path(ms): Path<u64>) -> &'static str {
    echo.requests.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    echo.name
}

async fn status(State(echo): State<Echo>, Path(status): Path<u16>) -> StatusCode {
    echo.requests.fetch_add(1, Ordering::SeqCst);
    StatusCode::from_u16(status).unwrap()
}

/// One event now, one after `?ms=`, and then silence.
async fn events(Query(query): Query<HashMap<String, u64>>) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<&'static str, std::io::Error>>(4);
    tokio::spawn(async move {
        let _ = sender.send(Ok("data: first\n\n")).await;
        tokio::time::sleep(Duration::from_millis(query.get("ms").copied().unwrap_or(0))).await;
        let _ = sender.send(Ok("data: second\n\n")).await;
        sender.closed().await;
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    ([("content-type", "text/event-stream")], body).into_response()
}

/// Says every message again.
async fn socket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

/// Sends the body back while it still comes.
async fn stream(request: Request) -> Response {
    Body::from_stream(request.into_body().into_data_stream()).into_response()
}

/// An answer that tells too much.
async fn inside() -> (HeaderMap, &'static str) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("server", "secret/1.0"),
        ("x-powered-by", "secrets"),
        ("connection", "keep-alive, x-inner"),
        ("x-inner", "hop"),
        ("keep-alive", "timeout=5"),
        ("x-frame-options", "SAMEORIGIN"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    (headers, "inside")
}

/// For rules that register metrics.
pub(crate) fn context() -> Context {
    Context::detached("router-service")
}
