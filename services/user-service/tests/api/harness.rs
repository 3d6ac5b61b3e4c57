//! A platform of one service: its stores, a token issuer, and a server that takes credentials as auth-service does.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{post, put},
};
use futures::StreamExt as _;
use kronos_common::{
    config::{self, Rabbit, Redis},
    event::{EXCHANGE, Event},
    service::Running,
};
use kronos_testkit::{Issuer, TestClient, TestDatabase, http, test_rabbit, test_redis};
use lapin::{
    ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};
use user_service::{Config, DEFAULTS};

/// What the other services declare when they start.
const OF_OTHERS: &str = "
    access:check audit:read clients:read clients:register clients:write credentials:reset
    credentials:write factors:write invitations:read invitations:write nodes:read nodes:write
    sessions:write tokens:verify cache:read cache:write db:backup db:query db:read logs:manage logs:read
    logs:write messages:publish messages:subscribe topics:manage topics:read routes:read routes:write
";

/// Everything but the service itself.
pub(crate) struct Platform {
    pub(crate) database: TestDatabase,
    pub(crate) issuer: Issuer,
    pub(crate) auth: FakeAuth,
    pub(crate) redis: Redis,
    pub(crate) rabbit: Rabbit,
}

/// A platform with one instance, and a client with all permissions.
pub(crate) struct Fixture {
    pub(crate) platform: Platform,
    pub(crate) running: Running,
    pub(crate) admin: TestClient,
}

impl Platform {
    pub(crate) async fn new() -> Self {
        Self {
            database: TestDatabase::create().await,
            issuer: Issuer::start().await,
            auth: FakeAuth::start().await,
            redis: test_redis(),
            rabbit: test_rabbit().await,
        }
    }

    pub(crate) fn config(&self) -> Config {
        let mut config: Config = config::load(DEFAULTS, None, &HashMap::new()).unwrap();
        config.http.bind = "127.0.0.1:0".parse().unwrap();
        config.http.operations_bind = config.http.bind;
        config.postgres = self.database.config("kronos_users");
        config.redis = self.redis.clone();
        config.rabbit = self.rabbit.clone();
        config.identity = self.issuer.config();
        config.sealing.active = "first".to_owned();
        config.sealing.keys = [("first".to_owned(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into())].into();
        config.services.auth_url = format!("http://{}", self.auth.address);
        config.services.log_url = config.services.auth_url.clone();
        config.services.database_admin_url = config.services.auth_url.clone();
        config.privacy.again_after_ms = 100;
        config.services.auth_deadline_ms = 1_000;
        config
    }

    pub(crate) async fn start(&self) -> Running {
        user_service::start(self.config()).await.unwrap()
    }

    /// A client of the instance, with a token of its own kind of caller.
    pub(crate) fn caller(&self, running: &Running, sub: &str, permissions: &[&str]) -> TestClient {
        http(running.api).bearer(self.issuer.token(sub, permissions))
    }
}

/// The other services have started.
pub(crate) async fn declare_others(admin: &TestClient) {
    let permissions: Vec<Value> = OF_OTHERS.split_whitespace().map(|name| json!({"name": name})).collect();
    admin.put("/permissions/others", &json!({"permissions": permissions})).await.expect(200);
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let platform = Platform::new().await;
        let running = platform.start().await;
        let admin = platform.caller(&running, "root", &["*:*"]);
        let names = ["x:a", "x:b", "x:c", "x:d", "x:e", "x:read", "x:write", "y:read"];
        let permissions: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        admin.put("/permissions/test", &json!({"permissions": permissions})).await.expect(200);
        declare_others(&admin).await;
        Self { platform, running, admin }
    }

    pub(crate) fn caller(&self, permissions: &[&str]) -> TestClient {
        self.platform.caller(&self.running, "somebody", permissions)
    }

    /// Makes a user, and gives the id.
    pub(crate) async fn user(&self, username: &str) -> String {
        let body = json!({"username": username, "email": format!("{username}@example.com"), "displayName": username});
        let user = self.admin.post("/users", &body).await.expect(201).json();
        user["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn role(&self, name: &str, permissions: &[&str], inherits: &[&str]) {
        let body = json!({"name": name, "permissions": permissions, "inherits": inherits});
        self.admin.post("/roles", &body).await.expect(201);
    }

    pub(crate) async fn give(&self, user: &str, role: &str, assignment: Value) -> i64 {
        let answer = self.admin.put(&format!("/users/{user}/roles/{role}"), &assignment).await.expect(200);
        answer.header("kronos-epoch").unwrap().parse().unwrap()
    }

    pub(crate) async fn group(&self, name: &str) -> String {
        let group = self.admin.post("/groups", &json!({"name": name})).await.expect(201).json();
        group["id"].as_str().unwrap().to_owned()
    }

    /// Takes somebody into a group, and gives the epoch.
    pub(crate) async fn join(&self, group: &str, user: &str) -> i64 {
        let answer = self.admin.put(&format!("/groups/{group}/members/{user}"), &json!({})).await.expect(204);
        answer.header("kronos-epoch").unwrap().parse().unwrap()
    }

    pub(crate) async fn grants(&self, user: &str) -> Value {
        self.admin.get(&format!("/users/{user}/grants")).await.expect(200).json()
    }

    pub(crate) async fn epoch(&self, user: &str) -> i64 {
        self.grants(user).await["epoch"].as_i64().unwrap()
    }

    pub(crate) async fn access(&self, user: &str, query: &str) -> Value {
        self.admin.get(&format!("/users/{user}/access?{query}")).await.expect(200).json()
    }

    /// Events from now on whose type fits the binding key.
    pub(crate) async fn listen(&self, binding: &str) -> Events {
        let url = secrecy::ExposeSecret::expose_secret(&self.platform.rabbit.url);
        let connection = lapin::Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        // The service's own connection declares the exchange; it may be a moment later than we are.
        let durable = lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
        let topic = lapin::ExchangeKind::Topic;
        channel.exchange_declare(EXCHANGE.into(), topic, durable, FieldTable::default()).await.unwrap();
        let queue = kronos_testkit::unique("listener");
        let name = || queue.as_str().into();
        channel.queue_declare(name(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(name(), EXCHANGE.into(), binding.into(), options, arguments).await.unwrap();
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(name(), "".into(), options, arguments).await.unwrap();
        Events { _connection: connection, consumer }
    }
}

/// Events as they come.
pub(crate) struct Events {
    _connection: lapin::Connection,
    consumer: lapin::Consumer,
}

impl Events {
    pub(crate) async fn next(&mut self) -> Event {
        let next = tokio::time::timeout(std::time::Duration::from_secs(5), self.consumer.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("no event within 5 s")).unwrap().unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        Event::decode(&delivery.data).unwrap()
    }
}

/// How [`FakeAuth`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Willing,
    Away,
    PasswordTooShort,
}

/// Takes `PUT /auth/credentials/{id}` as auth-service does.
#[derive(Clone)]
pub(crate) struct FakeAuth {
    pub(crate) address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    taken: Arc<Mutex<Vec<(String, Value)>>>,
    forgotten: Arc<Mutex<Vec<Value>>>,
}

impl FakeAuth {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let auth = Self {
            address,
            mood: Arc::new(Mutex::new(Mood::Willing)),
            taken: Arc::default(),
            forgotten: Arc::default(),
        };
        let router = Router::new()
            .route("/auth/credentials/{id}", put(take))
            .route("/privacy/export", post(show))
            .route("/privacy/erase", post(forget))
            .with_state(auth.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        auth
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Whom it was asked to forget, in every service's name.
    pub(crate) fn forgotten(&self) -> Vec<Value> {
        self.forgotten.lock().unwrap().clone()
    }

    /// The credentials that were taken, each with the user's id.
    pub(crate) fn taken(&self) -> Vec<(String, Value)> {
        self.taken.lock().unwrap().clone()
    }
}

/// What every service that holds something on people answers.
async fn show(State(auth): State<FakeAuth>, Json(person): Json<Value>) -> Response {
    let mood = *auth.mood.lock().unwrap();
    match mood {
        Mood::Away => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        _ => Json(json!({"known": person["username"]})).into_response(),
    }
}

async fn forget(State(auth): State<FakeAuth>, Json(person): Json<Value>) -> Response {
    let mood = *auth.mood.lock().unwrap();
    if mood == Mood::Away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    auth.forgotten.lock().unwrap().push(person);
    Json(json!({"removed": {"things": 1}, "kept": ["nothing of note"]})).into_response()
}

async fn take(
    State(auth): State<FakeAuth>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if headers.get(header::AUTHORIZATION).is_none() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mood = *auth.mood.lock().unwrap();
    match mood {
        Mood::Willing => {
            auth.taken.lock().unwrap().push((id, body));
            StatusCode::NO_CONTENT.into_response()
        }
        Mood::Away => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Mood::PasswordTooShort => {
            let errors = json!([{"pointer": "/password", "code": "too_short", "detail": "at least 8 characters"}]);
            let problem = json!({
                "type": "about:blank", "title": "Unprocessable Entity", "status": 422, "detail": "bad fields",
                "code": "invalid_request", "traceId": "0", "errors": errors,
            });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(problem)).into_response()
        }
    }
}
