//! The pool: bounded statements, connections that are replaced, migrations that are checked.

use std::borrow::Cow;

use axum::response::IntoResponse as _;
use kronos_common::{
    postgres::{self, COMMON_MIGRATIONS},
    problem::Problem,
    service::Context,
};
use kronos_testkit::{Proxy, TestDatabase, wait_until};
use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

#[tokio::test]
async fn a_migrated_schema_is_current() {
    let database = TestDatabase::create().await;
    let pool = postgres::connect(&database.config("kronos_users"), &Context::detached("test")).await.unwrap();
    postgres::check_migrations(&pool, &[&COMMON_MIGRATIONS]).await.unwrap();
}

#[tokio::test]
async fn a_missing_or_edited_migration_stops_the_start_and_says_what_to_run() {
    let database = TestDatabase::create().await;
    let pool = database.pool("kronos_users").await;
    let migration = |version, sql: &'static str| {
        let kind = MigrationType::Simple;
        Migration::new(version, Cow::Borrowed("robots"), kind, sql.into_sql_str(), false)
    };
    let missing = Migrator::with_migrations(vec![migration(9999, "select 1")]);
    let error = postgres::check_migrations(&pool, &[&COMMON_MIGRATIONS, &missing]).await.unwrap_err().to_string();
    assert!(error.contains("database-admin migrate") && error.contains("9999_robots"), "{error}");
    let edited = Migrator::with_migrations(vec![migration(1, "select 1")]);
    let error = postgres::check_migrations(&pool, &[&edited]).await.unwrap_err().to_string();
    assert!(error.contains("differs"), "{error}");
}

#[tokio::test]
async fn a_statement_that_runs_too_long_is_cancelled() {
    let database = TestDatabase::create().await;
    let mut config = database.config("kronos_users");
    config.statement_timeout_ms = 50;
    let pool = postgres::connect(&config, &Context::detached("test")).await.unwrap();
    let error = sqlx::query("select pg_sleep(30)").execute(&pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "57014", "{error}");
    let answer = Problem::from(error).into_response();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn connections_that_were_cut_are_replaced() {
    let database = TestDatabase::create().await;
    let (proxy, url) = Proxy::in_front_of(&database.url("kronos_users")).await;
    let mut config = database.config("kronos_users");
    config.url = url.into();
    config.acquire_timeout_ms = 2000;
    let pool = postgres::connect(&config, &Context::detached("test")).await.unwrap();
    proxy.block();
    wait_until("the database is away", async || {
        sqlx::query("select 1").execute(&pool).await.is_err_and(|error| postgres::is_unavailable(&error))
    })
    .await;
    proxy.restore();
    wait_until("the database is back", async || sqlx::query("select 1").execute(&pool).await.is_ok()).await;
}

#[tokio::test]
async fn no_error_shows_the_password() {
    let database = TestDatabase::create().await;
    let mut config = database.config("kronos_users");
    config.url = "postgres://user:hush@[bad".to_owned().into();
    let error = postgres::connect(&config, &Context::detached("test")).await.unwrap_err();
    assert!(!format!("{error:?}").contains("hush"), "{error:?}");
}
