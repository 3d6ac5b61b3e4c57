//! What PostgreSQL itself lets each role do, with no service in between: the layers behind the syntax tree.

use database_admin::migrate::{BACKUP, READER, SERVICES};
use kronos_testkit::TestDatabase;
use sqlx::{AssertSqlSafe, PgPool};

async fn code(pool: &PgPool, sql: String) -> String {
    match sqlx::query(AssertSqlSafe(sql)).execute(pool).await {
        Ok(_) => "done".to_owned(),
        Err(sqlx::Error::Database(error)) => error.code().unwrap_or_default().into_owned(),
        Err(error) => panic!("{error}"),
    }
}

const DENIED: &str = "42501";

async fn tables_of(database: &TestDatabase, schema: &str) -> Vec<String> {
    let admin = PgPool::connect(&database.admin_url()).await.unwrap();
    let tables = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = $1::text::regnamespace and relkind in ('r', 'p')",
    )
    .bind(schema)
    .fetch_all(&admin)
    .await
    .unwrap();
    admin.close().await;
    tables
}

#[tokio::test]
async fn each_role_is_refused_every_table_of_the_others() {
    let database = TestDatabase::create().await;
    let mut tables = Vec::new();
    for service in &SERVICES {
        let found = tables_of(&database, service.schema).await;
        assert!(found.iter().any(|table| table == "outbox"), "{} has its common tables", service.schema);
        tables.push((service, found));
    }
    for mine in &SERVICES {
        let pool = database.pool(mine.role).await;
        // Its own tables are found without a schema.
        assert_eq!(code(&pool, "select 1 from outbox".into()).await, "done", "{}", mine.role);
        for (others, tables) in tables.iter().filter(|(others, _)| others.role != mine.role) {
            let schema = others.schema;
            for table in tables {
                for sql in [
                    format!("select 1 from {schema}.{table}"),
                    format!("insert into {schema}.{table} default values"),
                    format!("delete from {schema}.{table}"),
                    format!("truncate {schema}.{table}"),
                    format!("alter table {schema}.{table} add column stolen int"),
                    format!("drop table {schema}.{table}"),
                ] {
                    assert_eq!(code(&pool, sql.clone()).await, DENIED, "{}: {sql}", mine.role);
                }
            }
            assert_eq!(code(&pool, format!("create table {schema}.mine (a int)")).await, DENIED, "{}", mine.role);
        }
        pool.close().await;
    }
}

#[tokio::test]
async fn no_role_can_make_itself_more_than_it_is() {
    let database = TestDatabase::create().await;
    let all = SERVICES.iter().map(|service| service.role).chain([READER, BACKUP]);
    for role in all {
        let pool = database.pool(role).await;
        for sql in [
            "alter role current_user superuser",
            "create role intruder",
            "create database intruder",
            "set role kronos_auth_admin_of_none",
            "create schema intruder",
            "create table public.intruder (a int)",
            "select * from pg_authid",
            "select pg_read_file('/etc/passwd')",
            "copy (select 1) to program 'true'",
        ] {
            let found = code(&pool, sql.to_owned()).await;
            // A read-only session says so first; a role that does not exist is none that it may take.
            assert!([DENIED, "25006", "22023", "3F000"].contains(&found.as_str()), "{role}: {sql}: {found}");
        }
        for service in SERVICES.iter().filter(|service| service.role != role) {
            assert_eq!(code(&pool, format!("set role {}", service.role)).await, DENIED, "{role}");
        }
        pool.close().await;
    }
}

#[tokio::test]
async fn the_reader_and_the_backup_write_nowhere_even_without_a_read_only_transaction() {
    let database = TestDatabase::create().await;
    for role in [READER, BACKUP] {
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&database.url(role)).await.unwrap();
        for service in &SERVICES {
            let schema = service.schema;
            assert_eq!(code(&pool, format!("delete from {schema}.outbox")).await, "25006", "{role}");
        }
        // It can lift its own default; the rights stand behind it.
        assert_eq!(code(&pool, "set default_transaction_read_only = off".into()).await, "done");
        for service in &SERVICES {
            let schema = service.schema;
            for sql in [
                format!("delete from {schema}.outbox"),
                format!("insert into {schema}.outbox (routing_key, event) values ('a', 'b')"),
                format!("create table {schema}.x (a int)"),
                format!("truncate {schema}.outbox"),
                "select lo_create(0)".to_owned(),
                "select s.lo_create from generate_series(0, 0) s".to_owned(),
            ] {
                assert_eq!(code(&pool, sql.clone()).await, DENIED, "{role}: {sql}");
            }
        }
        pool.close().await;
    }
}

#[tokio::test]
async fn the_reader_sees_no_secret_and_the_backup_sees_every_table() {
    let database = TestDatabase::create().await;
    let reader = database.pool(READER).await;
    for sql in [
        "select password_phc from auth.credentials",
        "select email from auth.credentials",
        "select sealed from auth.secrets",
        "select secret_hash from auth.clients",
        "select sealed_private from auth.signing_keys",
        "select message from logs.lines",
        "select attributes from logs.lines",
        "select payload from messaging.deliveries",
        "select event from users.outbox",
        "select body from users.idempotency_keys",
        "select sql from dbadmin.query_audit",
        "select version from auth._sqlx_migrations",
    ] {
        assert_eq!(code(&reader, sql.to_owned()).await, DENIED, "{sql}");
    }
    assert_eq!(code(&reader, "select username from auth.credentials".into()).await, "done");
    let backup = database.pool(BACKUP).await;
    for service in &SERVICES {
        for table in tables_of(&database, service.schema).await {
            let sql = format!("select * from {}.{table}", service.schema);
            assert_eq!(code(&backup, sql.clone()).await, "done", "{sql}");
        }
        // Also what a service makes later, such as a day's partition.
        let owner = database.pool(service.role).await;
        assert_eq!(code(&owner, "create table later (a int generated always as identity)".into()).await, "done");
        assert_eq!(code(&backup, format!("select * from {}.later", service.schema)).await, "done");
        let reads = format!("select * from {}.later", service.schema);
        assert_eq!(code(&reader, reads).await, DENIED, "nothing is readable by default");
        owner.close().await;
    }
    reader.close().await;
    backup.close().await;
}
