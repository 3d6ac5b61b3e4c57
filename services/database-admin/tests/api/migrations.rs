//! `database-admin migrate` on a database of its own.

use database_admin::migrate::{self, SERVICES, Settings};
use kronos_testkit::{Stores, unique};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

fn settings(database: &str) -> Settings {
    let stores = Stores::get();
    Settings {
        admin_url: stores.postgres.url.clone().into(),
        database: database.to_owned(),
        role_passwords: stores
            .role_passwords
            .iter()
            .map(|(role, password)| (role.clone(), password.clone().into()))
            .collect(),
        connection_limit: 100,
    }
}

async fn migrate(database: &str) -> String {
    let mut out = Vec::new();
    migrate::run(&settings(database), &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

async fn drop_database(name: &str) {
    let mut admin = PgConnection::connect(&Stores::get().postgres.url).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("drop database if exists {name} with (force)")))
        .execute(&mut admin)
        .await
        .unwrap();
}

/// Everything that migrate makes: tables, their owners and rights, defaults, what was applied and when.
async fn state(name: &str) -> Vec<String> {
    let mut url = reqwest::Url::parse(&Stores::get().postgres.url).unwrap();
    url.set_path(name);
    let mut admin = PgConnection::connect(url.as_str()).await.unwrap();
    let mut state: Vec<String> = sqlx::query_scalar(
        "select n.nspname || '.' || c.relname || ' ' || c.relowner::regrole || ' ' || coalesce(c.relacl::text, '') || ' '
             || coalesce((select string_agg(attname || attacl::text, ',' order by attnum) from pg_attribute
                 where attrelid = c.oid and attacl is not null), '')
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
         union all select nspname || ' ' || nspowner::regrole || ' ' || coalesce(nspacl::text, '') from pg_namespace
         union all select 'default ' || defaclrole::regrole || defaclacl::text from pg_default_acl
         order by 1",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    for service in &SERVICES {
        let applied =
            format!("select version || installed_on::text from {}._sqlx_migrations order by 1", service.schema);
        state.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(applied)).fetch_all(&mut admin).await.unwrap());
    }
    state
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let name = unique("kronos_migrate");
    let first = migrate(&name).await;
    let made = state(&name).await;
    let second = migrate(&name).await;
    assert_eq!(state(&name).await, made);
    drop_database(&name).await;
    for service in &SERVICES {
        let line = |out: &str| out.lines().find(|line| line.starts_with(service.schema)).unwrap().to_owned();
        assert!(!line(&first).contains(" 0 new "), "{first}");
        assert!(line(&second).contains(" 0 new "), "{second}");
    }
    assert!(!first.contains("not there to be read"), "the list of readable columns is out of date: {first}");
}

#[tokio::test]
async fn two_at_once_take_turns() {
    let name = unique("kronos_migrate");
    let (a, b) = tokio::join!(migrate(&name), migrate(&name));
    let made = state(&name).await;
    assert!(!made.is_empty());
    drop_database(&name).await;
    // One of them did all the work.
    let worked = |out: &str| out.contains("database   created");
    assert!(worked(&a) != worked(&b), "{a}\n{b}");
}

#[tokio::test]
async fn settings_that_cannot_be_meant_are_refused_by_name() {
    type Change = fn(&mut Settings);
    let cases: [(&str, Change); 4] = [
        ("migrate.role_passwords.kronos_nobody", |settings| {
            settings.role_passwords.insert("kronos_nobody".to_owned(), "x".into());
        }),
        ("migrate.database", |settings| settings.database = "a\"; drop database kronos; --".to_owned()),
        ("migrate.connection_limit", |settings| settings.connection_limit = -2),
        ("migrate.admin_url", |settings| settings.admin_url = "".into()),
    ];
    for (named, change) in cases {
        let mut settings = settings("kronos_never_made");
        change(&mut settings);
        let error = migrate::run(&settings, &mut Vec::new()).await.unwrap_err();
        assert!(format!("{error:#}").contains(named), "{error:#}");
    }
}
