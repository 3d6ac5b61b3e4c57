//! A database-admin of one's own: its database, its tokens, its directory of backups.

use std::{collections::HashMap, path::PathBuf};

use database_admin::{Config, DEFAULTS};
use kronos_common::{config, service::Running};
use kronos_testkit::{Issuer, TestClient, TestDatabase, http, test_redis, unique};
use serde_json::{Value, json};
use sqlx::PgPool;

/// A running service.
pub(crate) struct Harness {
    pub(crate) database: TestDatabase,
    pub(crate) issuer: Issuer,
    pub(crate) config: Config,
    pub(crate) running: Running,
    /// Removed at the end; before the database, which must not be in use.
    pub(crate) directory: PathBuf,
}

impl Harness {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::create().await;
        let issuer = Issuer::start().await;
        let mut config: Config = config::load(DEFAULTS, None, &HashMap::new()).unwrap();
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique("backups"));
        config.http.bind = "127.0.0.1:0".parse().unwrap();
        config.http.operations_bind = "127.0.0.1:0".parse().unwrap();
        config.postgres = database.config("kronos_dbadmin");
        config.redis = test_redis();
        config.identity = issuer.config();
        config.reader.url = database.url("kronos_reader").into();
        config.backup.url = database.url("kronos_backup").into();
        config.backup.directory = directory.clone();
        config.sealing.active = "first".to_owned();
        config.sealing.keys = [("first".to_owned(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into())].into();
        change(&mut config);
        let running = database_admin::start(config.clone()).await.unwrap();
        Self { database, issuer, config, running, directory }
    }

    /// A client that may do all that this service knows.
    pub(crate) fn client(&self) -> TestClient {
        self.client_with(&["db:read", "db:query", "db:backup"])
    }

    pub(crate) fn client_with(&self, permissions: &[&str]) -> TestClient {
        http(self.running.api).bearer(self.issuer.token("tester", permissions))
    }

    /// Asks `/db/query`.
    pub(crate) async fn ask(&self, sql: &str) -> Answer {
        self.ask_with(json!({ "sql": sql })).await
    }

    pub(crate) async fn ask_with(&self, body: Value) -> Answer {
        let response = self.client().post("/db/query", &body).await;
        Answer { status: response.status, body: response.json() }
    }

    /// A table of user-service's, as far as the reader is concerned: three rows, and a column that it may not read.
    pub(crate) async fn probe(&self) -> PgPool {
        let owner = self.database.pool("kronos_users").await;
        for statement in [
            "create table probe (id integer primary key, name text, born timestamptz, data jsonb, secret text)",
            "insert into probe values
                 (1, 'ada', '2026-01-02T03:04:05.5Z', '{\"a\": [1, 2]}', 'hidden'), (2, 'o''hara \\', null, null, 'hidden'),
                 (3, 'zoé', '2026-11-21T00:00:00Z', '3', 'hidden')",
            "grant select (id, name, born, data) on probe to kronos_reader",
        ] {
            sqlx::query(statement).execute(&owner).await.unwrap();
        }
        owner
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What `/db/query` said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The rule that refused it.
    pub(crate) fn rule(&self) -> &str {
        self.body["errors"][0]["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn detail(&self) -> &str {
        self.body["errors"][0]["detail"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn rows(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.body);
        &self.body["rows"]
    }
}
