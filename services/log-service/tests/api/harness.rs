//! A log-service of one's own: its database, its index prefix, its spill directory, its tokens. The brokers are away unless
//! a test brings them.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use kronos_common::{config, service::Running};
use kronos_testkit::{Issuer, Stores, TestClient, TestDatabase, http, test_redis, unique, wait_up_to};
use log_service::{Config, DEFAULTS};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub(crate) const ALL: [&str; 3] = ["logs:read", "logs:write", "logs:manage"];
/// An address where nobody listens.
pub(crate) const NOBODY: &str = "127.0.0.1:1";
/// Indices that killed test programs left are taken away after this.
const LEFT_OVER_AFTER_SECONDS: u64 = 3600;

/// A running service.
pub(crate) struct Harness {
    pub(crate) database: TestDatabase,
    pub(crate) issuer: Issuer,
    pub(crate) config: Config,
    pub(crate) running: Running,
}

/// The configuration of one test.
pub(crate) async fn configuration(database: &TestDatabase, issuer: &Issuer) -> Config {
    static SWEPT: OnceCell<()> = OnceCell::const_new();
    SWEPT.get_or_init(sweep).await;
    kronos_common::service::install_crypto();
    let mut config: Config = config::load(DEFAULTS, None, &HashMap::new()).unwrap();
    config.http.bind = "127.0.0.1:0".parse().unwrap();
    config.http.operations_bind = "127.0.0.1:0".parse().unwrap();
    config.postgres = database.config("kronos_logs");
    config.redis = test_redis();
    config.rabbit.url = format!("amqp://{NOBODY}").into();
    config.kafka.brokers = NOBODY.to_owned();
    config.identity = issuer.config();
    config.sealing.active = "first".to_owned();
    config.sealing.keys = [("first".to_owned(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into())].into();
    config.elasticsearch.url = Stores::get().elasticsearch.url.clone();
    config.elasticsearch.prefix = format!("{}-", unique("test"));
    config.elasticsearch.refresh_interval_ms = 200;
    config.elasticsearch.poll_ms = 100;
    // A busy machine is not what most tests are about.
    config.elasticsearch.timeout_ms = 20_000;
    config.sources.timeout_ms = 20_000;
    config.spill.directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique("spill"));
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
        let running = log_service::start(config.clone()).await.unwrap();
        Self { database, issuer, config, running }
    }

    /// A second instance of the same service.
    pub(crate) async fn another(&self) -> Running {
        log_service::start(self.config.clone()).await.unwrap()
    }

    /// A client that may do everything here.
    pub(crate) fn client(&self) -> TestClient {
        self.client_with(&ALL)
    }

    pub(crate) fn client_with(&self, permissions: &[&str]) -> TestClient {
        http(self.running.api).bearer(self.issuer.token("tester", permissions))
    }

    /// Keeps lines; all of them must be new.
    pub(crate) async fn keep(&self, lines: &Value) {
        let answer = self.client().post("/logs", lines).await.expect(201).json();
        let count = lines.as_array().map_or(1, Vec::len);
        assert_eq!(answer["accepted"], count, "{answer}");
    }

    /// Searches until Elasticsearch answers with so many lines, and returns them.
    pub(crate) async fn find(&self, query: &str, count: usize) -> Vec<Value> {
        let mut last = Value::Null;
        let patience = Duration::from_secs(20);
        wait_up_to(patience, &format!("{query} finds {count} lines in Elasticsearch"), async || {
            last = self.search(query).await;
            last["degraded"] == false && last["items"].as_array().unwrap().len() == count
        })
        .await;
        last["items"].as_array().unwrap().clone()
    }

    /// One search.
    pub(crate) async fn search(&self, query: &str) -> Value {
        self.client().get(&format!("/logs?{query}")).await.expect(200).json()
    }

    /// Waits until the index has everything that is kept.
    pub(crate) async fn indexed(&self) {
        wait_up_to(Duration::from_secs(20), "everything is indexed", async || {
            self.search("limit=1").await["watermark"]["pending"] == 0
        })
        .await;
        let url = format!("{}/{}logs-*/_refresh", Stores::get().elasticsearch.url, self.config.elasticsearch.prefix);
        reqwest::Client::new().post(url).send().await.unwrap().error_for_status().unwrap();
    }

    /// Waits until Elasticsearch shows so many lines.
    pub(crate) async fn shows(&self, lines: usize) {
        let index = format!("{}/{}logs-*", Stores::get().elasticsearch.url, self.config.elasticsearch.prefix);
        wait_up_to(Duration::from_secs(20), "Elasticsearch to show every line", async || {
            let http = reqwest::Client::new();
            http.post(format!("{index}/_refresh")).send().await.unwrap().error_for_status().unwrap();
            let count: Value = http.get(format!("{index}/_count")).send().await.unwrap().json().await.unwrap();
            count["count"] == lines
        })
        .await;
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
        let _ = std::fs::remove_dir_all(&self.config.spill.directory);
        forget(&self.config.elasticsearch.prefix).await;
    }
}

/// The messages of lines.
pub(crate) fn messages(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["message"].as_str().unwrap()).collect()
}

/// A line of a robot.
pub(crate) fn line(message: &str) -> Value {
    json!({ "service": "robot", "level": "info", "message": message })
}

/// Deletes what a test left in Elasticsearch.
pub(crate) async fn forget(prefix: &str) {
    delete_indices(|name| name.starts_with(prefix)).await;
    let template = format!("{}/_index_template/{prefix}logs", Stores::get().elasticsearch.url);
    let _ = reqwest::Client::new().delete(template).send().await;
}

/// Deletes indices one by one: Elasticsearch deletes none by a pattern.
pub(crate) async fn delete_indices(unwanted: impl Fn(&str) -> bool) {
    let base = &Stores::get().elasticsearch.url;
    let http = reqwest::Client::new();
    let names = http.get(format!("{base}/_cat/indices?h=index")).send().await.unwrap().text().await.unwrap();
    for name in names.lines().map(str::trim).filter(|name| unwanted(name)) {
        let deleted = http.delete(format!("{base}/{name}?ignore_unavailable=true")).send().await.unwrap();
        assert!(deleted.status().is_success(), "delete {name}: {}", deleted.status());
    }
}

async fn sweep() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let left_over = |name: &str| {
        let born: Option<u64> = name.strip_prefix("test_").and_then(|rest| rest.split('_').next()?.parse().ok());
        born.is_some_and(|born| now.saturating_sub(born) > LEFT_OVER_AFTER_SECONDS)
    };
    delete_indices(left_over).await;
}
