//! PostgreSQL away, and kill -9: no line that was acknowledged is lost.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use kronos_testkit::{Issuer, Proxy, TestClient, TestDatabase, http, wait_up_to};
use log_service::Config;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::harness::{Harness, configuration, forget, line};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn while_postgres_is_away_lines_are_spilled_and_come_back() {
    let database = TestDatabase::create().await;
    let issuer = Issuer::start().await;
    let mut config = configuration(&database, &issuer).await;
    let (proxy, url) = Proxy::in_front_of(&database.url("kronos_logs")).await;
    config.postgres.url = url.into();
    config.ingest.patience_ms = 500;
    let running = log_service::start(config.clone()).await.unwrap();
    let logs = Harness { database, issuer, config, running };
    logs.keep(&line("before")).await;
    logs.find("service=robot", 1).await;
    proxy.block();
    for n in 0..5 {
        let named = json!({ "service": "robot", "level": "info", "message": "meanwhile", "id": format!("n{n}") });
        logs.keep(&named).await;
    }
    assert!(std::fs::read_dir(&logs.config.spill.directory).unwrap().count() > 0);
    http(logs.running.operations).get("/ready").await.expect(200);
    // The index still answers, and does not claim to know how far it is.
    let page = logs.search("q=before").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert_eq!((&page["watermark"]["seq"], &page["degraded"]), (&Value::Null, &json!(false)));
    proxy.restore();
    logs.find("q=meanwhile", 5).await;
    wait_up_to(PATIENCE, "the spill is empty", async || {
        std::fs::read_dir(&logs.config.spill.directory).unwrap().count() == 0
    })
    .await;
    // A caller that lost the answer repeats: the line is known.
    let again = json!({ "service": "robot", "level": "info", "message": "meanwhile", "id": "n3" });
    let answer = logs.client().post("/logs", &again).await.expect(201).json();
    assert_eq!(answer["duplicates"], 1);
    logs.stop().await;
}

#[tokio::test]
async fn a_full_spill_is_a_503_with_retry_after_and_keeps_nothing() {
    let database = TestDatabase::create().await;
    let issuer = Issuer::start().await;
    let mut config = configuration(&database, &issuer).await;
    let (proxy, url) = Proxy::in_front_of(&database.url("kronos_logs")).await;
    config.postgres.url = url.into();
    config.ingest.patience_ms = 300;
    config.spill.max_bytes = 3_000;
    let running = log_service::start(config.clone()).await.unwrap();
    let logs = Harness { database, issuer, config, running };
    proxy.block();
    let (mut kept, mut refused) = (0, None);
    while refused.is_none() {
        let answer = logs.client().post("/logs", &line(&format!("spilled {kept}"))).await;
        match answer.status {
            201 => kept += 1,
            _ => refused = Some(answer),
        }
        assert!(kept < 100, "the spill has no end");
    }
    let refused = refused.unwrap().expect_problem(503, "store_unavailable");
    assert_eq!(refused.header("retry-after"), Some("5"));
    proxy.restore();
    logs.find("q=spilled", kept).await;
    logs.stop().await;
}

/// The real program, killed when dropped.
struct Program {
    child: Child,
    api: SocketAddr,
}

impl Program {
    async fn start(config: &Config) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_log-service"));
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
            ("IDENTITY__CLIENT_SECRET", "not-checked".to_owned()),
            ("ELASTICSEARCH__URL", config.elasticsearch.url.clone()),
            ("ELASTICSEARCH__PREFIX", config.elasticsearch.prefix.clone()),
            ("INGEST__PATIENCE_MS", config.ingest.patience_ms.to_string()),
            ("SPILL__DIRECTORY", config.spill.directory.display().to_string()),
        ];
        command.envs(variables.map(|(name, value)| (format!("KRONOS_{name}"), value)));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = async {
            while let Some(text) = lines.next_line().await.unwrap() {
                let line: Value = serde_json::from_str(&text).unwrap_or_default();
                if let Some(api) = found(&line, "api") {
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

    fn client(&self, issuer: &Issuer) -> TestClient {
        http(self.api).bearer(issuer.token("tester", &["logs:read", "logs:write"]))
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// A field of a log line, wherever the format puts it.
fn found(line: &Value, name: &str) -> Option<SocketAddr> {
    let text = line[name].as_str().or_else(|| line["fields"][name].as_str())?;
    text.parse().ok()
}

#[tokio::test]
async fn kill_9_between_commit_and_index_loses_no_line() {
    let database = TestDatabase::create().await;
    let issuer = Issuer::start().await;
    let config = configuration(&database, &issuer).await;
    let mut acknowledged = 0;
    for round in 0..3 {
        let program = Program::start(&config).await;
        let client = program.client(&issuer);
        for n in 0..10 {
            let lines: Vec<Value> = (0..20).map(|m| line(&format!("survivor {round} {n} {m}"))).collect();
            client.post("/logs", &lines).await.expect(201);
            acknowledged += lines.len();
        }
        program.kill().await;
    }
    let program = Program::start(&config).await;
    let client = program.client(&issuer);
    let mut last = Value::Null;
    wait_up_to(PATIENCE, "every acknowledged line is found in Elasticsearch", async || {
        last = client.get("/logs?q=survivor&limit=1000").await.expect(200).json();
        last["degraded"] == false && last["items"].as_array().unwrap().len() == acknowledged
    })
    .await;
    program.kill().await;
    forget(&config.elasticsearch.prefix).await;
}

#[tokio::test]
async fn kill_9_while_lines_are_in_the_spill_loses_no_line() {
    let database = TestDatabase::create().await;
    let issuer = Issuer::start().await;
    let mut config = configuration(&database, &issuer).await;
    let (proxy, url) = Proxy::in_front_of(&database.url("kronos_logs")).await;
    config.postgres.url = url.into();
    config.ingest.patience_ms = 300;
    let program = Program::start(&config).await;
    let client = program.client(&issuer);
    client.post("/logs", &line("spilled 0")).await.expect(201);
    proxy.block();
    for n in 1..=10 {
        client.post("/logs", &line(&format!("spilled {n}"))).await.expect(201);
    }
    program.kill().await;
    // What the killed one was writing when it died was not acknowledged.
    let torn = config.spill.directory.join("00000000.spill");
    std::fs::write(torn, [0, 0, 1, 0, 7]).unwrap();
    proxy.restore();
    let program = Program::start(&config).await;
    let client = program.client(&issuer);
    wait_up_to(PATIENCE, "every acknowledged line is found", async || {
        let page = client.get("/logs?q=spilled&limit=100").await.expect(200).json();
        page["degraded"] == false && page["items"].as_array().unwrap().len() == 11
    })
    .await;
    program.kill().await;
    let _ = std::fs::remove_dir_all(&config.spill.directory);
    forget(&config.elasticsearch.prefix).await;
}
