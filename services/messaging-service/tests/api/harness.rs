//! A messaging-service of one's own: its database, virtual host, topic prefix, tokens; and a reader of server-sent events.

use std::{collections::HashMap, net::SocketAddr, process::Stdio, time::Duration};

use kronos_common::{config, service::Running};
use kronos_testkit::{Issuer, TestClient, TestDatabase, http, test_kafka, test_rabbit, test_redis, wait_up_to};
use messaging_service::{Config, DEFAULTS};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

pub(crate) const ALL: [&str; 4] = ["topics:read", "topics:manage", "messages:publish", "messages:subscribe"];
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running service.
pub(crate) struct Harness {
    pub(crate) database: TestDatabase,
    pub(crate) issuer: Issuer,
    pub(crate) config: Config,
    pub(crate) running: Running,
    client: TestClient,
}

/// The configuration of one test.
pub(crate) async fn configuration(database: &TestDatabase, issuer: &Issuer) -> Config {
    kronos_common::service::install_crypto();
    let mut config: Config = config::load(DEFAULTS, None, &HashMap::new()).unwrap();
    config.http.bind = "127.0.0.1:0".parse().unwrap();
    config.http.operations_bind = "127.0.0.1:0".parse().unwrap();
    config.postgres = database.config("kronos_messaging");
    config.redis = test_redis();
    config.rabbit = test_rabbit().await;
    config.kafka = test_kafka();
    config.identity = issuer.config();
    // Each test has only the topics that it makes.
    config.channels.enabled = false;
    config
}

impl Harness {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::create().await;
        let issuer = Issuer::start().await;
        let mut config = configuration(&database, &issuer).await;
        change(&mut config);
        let running = messaging_service::start(config.clone()).await.unwrap();
        let harness = Self::of(database, issuer, config, running);
        // The brokers' connections are opened behind the start.
        harness.until_ready(&harness.running).await;
        harness
    }

    /// The parts put together.
    pub(crate) fn of(database: TestDatabase, issuer: Issuer, config: Config, running: Running) -> Self {
        let client = http(running.api).bearer(issuer.token("tester", &ALL));
        Self { database, issuer, config, running, client }
    }

    /// A second instance of the same service.
    pub(crate) async fn another(&self) -> Running {
        let running = messaging_service::start(self.config.clone()).await.unwrap();
        self.until_ready(&running).await;
        running
    }

    async fn until_ready(&self, running: &Running) {
        let operations = http(running.operations);
        let down = ["rabbitmq", "kafka"].map(|name| format!("kronos_dependency_up{{name=\"{name}\"}} 0"));
        let brokers_matter = !self.config.rabbit.url.expose_secret().contains("127.0.0.1:1/");
        wait_up_to(PATIENCE, "the service is ready, and its brokers", async || {
            let metrics = operations.get("/metrics").await.text();
            operations.get("/ready").await.status == 200
                && !(brokers_matter && down.iter().any(|line| metrics.contains(line)))
        })
        .await;
    }

    /// A client that may do everything here.
    pub(crate) fn client(&self) -> TestClient {
        self.client.clone()
    }

    pub(crate) fn client_at(&self, running: &Running) -> TestClient {
        http(running.api).bearer(self.issuer.token("tester", &ALL))
    }

    pub(crate) fn client_as(&self, subject: &str, permissions: &[&str]) -> TestClient {
        http(self.running.api).bearer(self.issuer.token(subject, permissions))
    }

    /// Creates a topic; `settings` beside name and kind.
    pub(crate) async fn topic(&self, name: &str, kind: &str, settings: &Value) -> Value {
        let mut topic = json!({ "name": name, "kind": kind });
        topic.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        self.client().post("/topics", &topic).await.expect(201).json()
    }

    /// Publishes, and gives the message's id.
    pub(crate) async fn publish(&self, topic: &str, payload: impl serde::Serialize) -> String {
        self.publish_with(topic, payload, &json!({})).await
    }

    pub(crate) async fn publish_with(&self, topic: &str, payload: impl serde::Serialize, more: &Value) -> String {
        let mut message = json!({ "topic": topic, "payload": payload });
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.client().post("/publish", &message).await;
        assert!([201, 202].contains(&answer.status), "{answer}");
        answer.json()["messageId"].as_str().unwrap().to_owned()
    }

    /// One message, which must come.
    pub(crate) async fn take(&self, topic: &str, query: &str) -> Value {
        take_from(&self.client(), topic, query).await
    }

    /// Waits a little, and nothing comes.
    pub(crate) async fn nothing_comes(&self, topic: &str, query: &str, wait_ms: u64) {
        let path = format!("/subscribe/{topic}?mode=poll&waitMs={wait_ms}{query}");
        let polled = self.client().get(&path).await.expect(200).json();
        assert_eq!(polled["messages"], json!([]), "{polled}");
    }

    pub(crate) async fn stop(self) {
        let client = self.client();
        let topics = client.get("/topics?limit=200").await.json();
        for topic in topics["items"].as_array().into_iter().flatten() {
            client.delete(&format!("/topics/{}", topic["name"].as_str().unwrap())).await;
        }
        self.running.stop().await;
    }
}

pub(crate) async fn take_from(client: &TestClient, topic: &str, query: &str) -> Value {
    let path = format!("/subscribe/{topic}?mode=poll&max=1&waitMs=20000{query}");
    let polled = client.get(&path).await.expect(200).json();
    assert_eq!(polled["messages"].as_array().map(Vec::len), Some(1), "{polled}");
    polled["messages"][0].clone()
}

/// A field of a message as text.
pub(crate) fn text<'a>(message: &'a Value, field: &str) -> &'a str {
    message[field].as_str().unwrap_or_else(|| panic!("no {field} in {message}"))
}

/// What comes over a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sent {
    Message(Value),
    Event(String),
    Comment(String),
}

/// A reader of server-sent events.
pub(crate) struct Sse {
    response: reqwest::Response,
    buffer: String,
    /// The `id` of the last event.
    pub(crate) last_id: String,
}

impl Sse {
    pub(crate) async fn open(client: &TestClient, topic: &str, query: &str) -> Self {
        Self::resume(client, topic, query, "").await
    }

    /// Goes on after the event of this id.
    pub(crate) async fn resume(client: &TestClient, topic: &str, query: &str, last_id: &str) -> Self {
        let request = client.get(&format!("/subscribe/{topic}?{query}")).header("last-event-id", last_id);
        let response = request.stream().await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        let mut sse = Self { response, buffer: String::new(), last_id: String::new() };
        assert_eq!(sse.next().await, Some(Sent::Comment("subscribed".to_owned())));
        sse
    }

    /// The next event or comment; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.buffer = rest;
                if let Some(id) = event.lines().find_map(|line| line.strip_prefix("id:")) {
                    id.trim_start().clone_into(&mut self.last_id);
                }
                return Some(parse(&event));
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("something comes in time");
            // Cut off is an end too.
            self.buffer.push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
    }

    /// The next message; comments are passed over.
    pub(crate) async fn message(&mut self) -> Value {
        loop {
            match self.next().await {
                Some(Sent::Message(message)) => return message,
                Some(Sent::Comment(_)) => {}
                other => panic!("instead of a message: {other:?}"),
            }
        }
    }

    /// So many messages.
    pub(crate) async fn messages(&mut self, count: usize) -> Vec<Value> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(self.message().await);
        }
        messages
    }

    /// Whether anything but comments comes within this time.
    pub(crate) async fn is_quiet(&mut self, time: Duration) -> bool {
        let next = async { while let Some(Sent::Comment(_)) = self.next().await {} };
        tokio::time::timeout(time, next).await.is_err()
    }
}

fn parse(event: &str) -> Sent {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_start());
    match (field("event:"), field("data:"), field(":")) {
        (Some(name), ..) => Sent::Event(name.to_owned()),
        (None, Some(data), _) => Sent::Message(serde_json::from_str(data).unwrap()),
        (None, None, comment) => Sent::Comment(comment.unwrap_or_default().to_owned()),
    }
}

/// The real program, killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) api: SocketAddr,
}

impl Program {
    pub(crate) async fn start(config: &Config) -> Self {
        let secret = |secret: &secrecy::SecretString| secret.expose_secret().to_owned();
        let variables = [
            ("HTTP__BIND", "127.0.0.1:0".to_owned()),
            ("HTTP__OPERATIONS_BIND", "127.0.0.1:0".to_owned()),
            ("POSTGRES__URL", secret(&config.postgres.url)),
            ("REDIS__URL", secret(&config.redis.url)),
            ("REDIS__PREFIX", config.redis.prefix.clone()),
            ("RABBIT__URL", secret(&config.rabbit.url)),
            ("KAFKA__BROKERS", config.kafka.brokers.clone()),
            ("KAFKA__PREFIX", config.kafka.prefix.clone()),
            ("IDENTITY__ISSUER", config.identity.issuer.clone()),
            ("IDENTITY__JWKS_URL", config.identity.jwks_url.clone()),
            ("IDENTITY__AUTH_URL", config.identity.auth_url.clone()),
            ("CHANNELS__ENABLED", "false".to_owned()),
            ("IDENTITY__CLIENT_SECRET", "not-checked".to_owned()),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_messaging-service"));
        command.envs(variables.map(|(name, value)| (format!("KRONOS_{name}"), value)));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = async {
            while let Some(text) = lines.next_line().await.unwrap() {
                let line: Value = serde_json::from_str(&text).unwrap_or_default();
                let api = line["api"].as_str().or_else(|| line["fields"]["api"].as_str());
                if let Some(api) = api.and_then(|text| text.parse().ok()) {
                    return api;
                }
            }
            panic!("the program ended before it was ready");
        };
        let api = tokio::time::timeout(PATIENCE, ready).await.unwrap();
        // Its output must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, api }
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
