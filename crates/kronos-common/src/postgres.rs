//! PostgreSQL: a pool that waits for its server, cancels statements that run too long, and replaces connections that a
//! restart has cut. Every service has its own role, whose search path is its schema; it never migrates, it only checks.

use std::{str::FromStr as _, time::Duration};

use anyhow::Context as _;
use futures::FutureExt as _;
use secrecy::ExposeSecret as _;
use sqlx::{
    Connection as _, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    config,
    service::{Context, Criticality},
};

/// The migrations that every schema has; each service's own come after them.
pub static COMMON_MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/common");

/// How long a service waits for its database when it starts.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A connection that was idle for longer is tried before it is handed out.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Opens the pool, waits until the server answers, and makes `/ready` depend on it.
///
/// # Errors
/// A malformed URL, or no answer within 60 s; the message names host and database, never the password.
pub async fn connect(config: &config::Postgres, context: &Context) -> anyhow::Result<PgPool> {
    connect_as(config, context, Criticality::Critical).await
}

/// As [`connect`], for a service that can work without its database for a while.
///
/// # Errors
/// As [`connect`].
pub async fn connect_as(
    config: &config::Postgres,
    context: &Context,
    criticality: Criticality,
) -> anyhow::Result<PgPool> {
    let pool = open(config, context.name)?;
    wait_for(&pool, config, context).await?;
    let checked = pool.clone();
    context.depends_on("postgres", criticality, move || {
        let pool = checked.clone();
        async move {
            sqlx::query("select 1").execute(&pool).await?;
            Ok(())
        }
        .boxed()
    });
    Ok(pool)
}

/// The same pool, but neither waited for nor shown by `/ready`; its connections open at first use.
///
/// # Errors
/// A malformed URL.
pub fn open(config: &config::Postgres, application_name: &str) -> anyhow::Result<PgPool> {
    let options = options(config)?.application_name(application_name);
    let statement_timeout = config.statement_timeout_ms.to_string();
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(Duration::from_millis(config.acquire_timeout_ms))
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                if idle.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        // Not a startup parameter: a pooler between us and the server would refuse it.
        .after_connect(move |connection, _| {
            let statement_timeout = statement_timeout.clone();
            Box::pin(async move {
                let set = sqlx::query("select set_config('statement_timeout', $1, false)").bind(statement_timeout);
                set.execute(connection).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options))
}

fn options(config: &config::Postgres) -> anyhow::Result<PgConnectOptions> {
    // The driver's own message may repeat the URL, and with it the password.
    PgConnectOptions::from_str(config.url.expose_secret())
        .map_err(|_| anyhow::anyhow!("configuration key `postgres.url` is not a postgres:// URL"))
}

async fn wait_for(pool: &PgPool, config: &config::Postgres, context: &Context) -> anyhow::Result<()> {
    let options = options(config)?;
    let server =
        format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or_default());
    let deadline = tokio::time::Instant::now() + START_DEADLINE;
    let mut pause = Duration::from_millis(100);
    loop {
        let Err(error) = pool.acquire().await else {
            return Ok(());
        };
        if tokio::time::Instant::now() + pause > deadline {
            return Err(error).with_context(|| format!("connect to PostgreSQL at {server}"));
        }
        tracing::warn!(%server, %error, "database does not answer yet");
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(2)),
            () = context.shutdown.cancelled() => anyhow::bail!("stopped while waiting for PostgreSQL at {server}"),
        }
    }
}

#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    success: bool,
    checksum: Vec<u8>,
}

/// Checks that every migration of `migrators` is applied, and is the same one; newer ones in the database are welcome.
///
/// # Errors
/// What is missing or differs, and what to run.
pub async fn check_migrations(pool: &PgPool, migrators: &[&Migrator]) -> anyhow::Result<()> {
    let found =
        sqlx::query_as::<_, Applied>("select version, success, checksum from _sqlx_migrations").fetch_all(pool).await;
    let applied = match found {
        Ok(applied) => applied,
        // undefined_table: nothing was ever migrated here
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        Err(error) => return Err(error).context("read the applied migrations"),
    };
    for migration in migrators.iter().flat_map(|migrator| migrator.iter()) {
        let name = format!("{:04}_{}", migration.version, migration.description.replace(' ', "_"));
        match applied.iter().find(|applied| applied.version == migration.version) {
            Some(applied) if applied.success && applied.checksum == *migration.checksum => {}
            Some(applied) if applied.success => {
                anyhow::bail!("the applied migration {name} differs from this version's: migrations are never edited")
            }
            _ => anyhow::bail!("schema is behind: run `database-admin migrate` ({name} is missing)"),
        }
    }
    Ok(())
}

/// Whether `error` says that the database is away, rather than that the statement was wrong.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => true,
        // What the driver makes of a connection that is closed at once, by a balancer without a server behind it.
        sqlx::Error::Protocol(text) => text.starts_with("unexpected response from SSLRequest: 0x00"),
        // Class 08: connection exception; 57P01 to 57P03: the server stops, crashed or starts; 53: out of resources.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P0") || code.starts_with("53")),
        _ => false,
    }
}
