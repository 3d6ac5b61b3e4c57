//! A database for one test: a copy of the migrated template, with every schema and role, dropped at the end.

use std::time::Duration;

use kronos_common::config;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::sync::OnceCell;

use crate::{
    stores::{Stores, with_login},
    wait::{born, unique},
};

const TEMPLATE: &str = "kronos_template";
const PREFIX: &str = "kronos_test";
/// Of all test processes, one at a time may copy the template: a copy fails while another session is in it.
const COPY_LOCK: i64 = 0x6b72_6f6e_6f73;
/// What a killed test process has left is taken away by a later one after this, in seconds.
const LEFT_OVER_AFTER: u64 = 3600;

/// A database; dropping it drops it, soon. What the end of the process leaves is swept by a later one.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
}

impl TestDatabase {
    /// Copies the template.
    ///
    /// # Panics
    /// If the stores are not there.
    pub async fn create() -> Self {
        static SWEPT: OnceCell<()> = OnceCell::const_new();
        let name = unique(PREFIX);
        let mut admin = admin().await;
        sqlx::query("select pg_advisory_lock($1)").bind(COPY_LOCK).execute(&mut admin).await.expect("take turns");
        SWEPT.get_or_init(sweep).await;
        let mut attempts = 0;
        loop {
            // On a server without fsync, several times as fast as the default, which writes every page to the log.
            let create = AssertSqlSafe(format!("create database {name} template {TEMPLATE} strategy file_copy"));
            match sqlx::query(create).execute(&mut admin).await {
                Ok(_) => break,
                Err(error) if is_being_replaced(&error) && attempts < 100 => {
                    attempts += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("create a test database from {TEMPLATE}: {error}"),
            }
        }
        // The lock ends with the session.
        admin.close().await.expect("leave the server");
        Self { name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL for a service's role, such as `kronos_auth`, whose search path is its own schema.
    pub fn url(&self, role: &str) -> String {
        let stores = Stores::get();
        let password = stores.role_passwords.get(role).unwrap_or_else(|| panic!("stores.json knows no role {role}"));
        let mut url = with_login(&stores.postgres.url, role, password);
        url.set_path(&self.name);
        url.to_string()
    }

    /// The URL for the role that may do everything.
    pub fn admin_url(&self) -> String {
        let mut url = reqwest::Url::parse(&Stores::get().postgres.url).expect("stores.json holds URLs");
        url.set_path(&self.name);
        url.to_string()
    }

    /// A `[postgres]` section for a role.
    pub fn config(&self, role: &str) -> config::Postgres {
        config::Postgres {
            url: self.url(role).into(),
            max_connections: 8,
            acquire_timeout_ms: 25_000,
            statement_timeout_ms: 25_000,
        }
    }

    /// A pool for a role, for what a test looks up or prepares itself.
    pub async fn pool(&self, role: &str) -> PgPool {
        PgPoolOptions::new().max_connections(4).connect(&self.url(role)).await.expect("connect to the test database")
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        // A thread with its own runtime, for which nobody waits: while the test's runtime stood still here, a connection of
        // its pool that is logging in would too, and `drop database` waits for that one until it times out.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("build a runtime");
            runtime.block_on(async { drop_database(&mut admin().await, &name).await });
        });
    }
}

/// Somebody is still leaving the template (`object_in_use`), or puts a newer one in its place (`invalid_catalog_name`).
fn is_being_replaced(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55006" | "3D000"))
}

async fn admin() -> PgConnection {
    PgConnection::connect(&Stores::get().postgres.url).await.expect("connect to the test server")
}

async fn drop_database(admin: &mut PgConnection, name: &str) {
    let drop = AssertSqlSafe(format!("drop database if exists {name} with (force)"));
    // What cannot be dropped now is swept by a later run.
    let _ = sqlx::query(drop).execute(admin).await;
}

async fn sweep() {
    let mut admin = admin().await;
    let names = sqlx::query_scalar::<_, String>("select datname from pg_database where datname like $1")
        .bind(format!("{PREFIX}\\_%"))
        .fetch_all(&mut admin)
        .await
        .expect("list databases");
    for name in names.iter().filter(|name| born(name).is_some_and(|age| age.as_secs() > LEFT_OVER_AFTER)) {
        drop_database(&mut admin, name).await;
    }
}
