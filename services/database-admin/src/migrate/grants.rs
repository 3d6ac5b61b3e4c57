//! Who may do what beyond their own schema: nobody, but for the reader's columns, the backup's tables, and what
//! `/db/status` needs. Every right is written here; none comes from a predefined role that reads data.

use std::io::Write;

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{
    readable::READABLE,
    roles::{BACKUP, READER, SERVICES, names},
};

/// Takes from everyone what PostgreSQL gives by default, and lets only our roles in. `database` was checked.
pub(super) async fn close_database(target: &mut PgConnection, database: &str) -> anyhow::Result<()> {
    let roles = names().collect::<Vec<_>>().join(", ");
    target
        .execute(AssertSqlSafe(format!(
            "revoke all on database \"{database}\" from public;
             grant connect on database \"{database}\" to {roles};
             revoke all on schema public from public;"
        )))
        .await
        .context("revoke the public's rights")?;
    // Large objects belong to no schema, and anyone may make them. Nobody here uses them. Only a superuser can close them.
    target
        .execute(
            "do $$
             declare
                 f regprocedure;
             begin
                 if (select rolsuper from pg_roles where rolname = current_user) then
                     for f in
                         select oid from pg_proc where pronamespace = 'pg_catalog'::regnamespace
                             and (proname like 'lo\\_%' or proname in ('loread', 'lowrite'))
                     loop
                         execute format('revoke execute on function %s from public', f);
                     end loop;
                 end if;
             end
             $$",
        )
        .await
        .context("close large objects")?;
    Ok(())
}

/// Gives the explicit rights, after the migrations, when every table is there.
pub(super) async fn give(target: &mut PgConnection, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    for service in &SERVICES {
        let (role, schema) = (service.role, service.schema);
        target
            .execute(AssertSqlSafe(format!(
                "grant usage on schema {schema} to {BACKUP};
                 grant select on all tables in schema {schema} to {BACKUP};
                 grant select on all sequences in schema {schema} to {BACKUP};
                 alter default privileges for role {role} in schema {schema} grant select on tables to {BACKUP};
                 alter default privileges for role {role} in schema {schema} grant select on sequences to {BACKUP};"
            )))
            .await
            .with_context(|| format!("grant {schema} to {BACKUP}"))?;
    }
    let (tables, missing) = readable(target).await?;
    writeln!(out, "{:<10} {READER} reads {tables} tables", "grants")?;
    if !missing.is_empty() {
        writeln!(out, "{:<10} not there to be read: {}", "", missing.join(", "))?;
    }
    let statements = statement_statistics(target).await?;
    writeln!(out, "{:<10} statement statistics {}", "grants", if statements { "on" } else { "not available" })?;
    Ok(())
}

/// Gives the reader its columns, and takes every other: how many tables it reads, and which columns of the list are
/// not there. Between the two no query sees a difference: it is one transaction.
async fn readable(target: &mut PgConnection) -> anyhow::Result<(usize, Vec<String>)> {
    let mut transaction = target.begin().await?;
    for schema in SERVICES.iter().map(|service| service.schema) {
        // This takes the rights on single columns too.
        let revoke = format!(
            "revoke all on all tables in schema {schema} from {READER}; grant usage on schema {schema} to {READER}"
        );
        transaction.execute(AssertSqlSafe(revoke)).await.with_context(|| format!("revoke {schema} from {READER}"))?;
    }
    let mut tables = 0;
    let mut missing = Vec::new();
    for entry in READABLE {
        for schema in
            SERVICES.iter().map(|service| service.schema).filter(|schema| ["*", schema].contains(&entry.schema))
        {
            let table = entry.table;
            let wanted: Vec<&str> = entry.columns.split(' ').collect();
            let found: Vec<String> = sqlx::query_scalar(
                "select a.attname::text from pg_attribute a
                 where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped and a.attname = any($2)",
            )
            .bind(format!("{schema}.{table}"))
            .bind(&wanted)
            .fetch_all(&mut *transaction)
            .await?;
            let lost = wanted.iter().filter(|column| !found.iter().any(|found| found == *column));
            missing.extend(lost.map(|column| format!("{schema}.{table}.{column}")));
            if !found.is_empty() {
                let grant = format!("grant select ({}) on {schema}.{table} to {READER}", found.join(", "));
                transaction.execute(AssertSqlSafe(grant)).await.with_context(|| format!("grant {schema}.{table}"))?;
                tables += 1;
            }
        }
    }
    transaction.commit().await?;
    Ok((tables, missing))
}

/// Installs `pg_trgm` where the server has it, before the migrations that index texts with it.
pub(super) async fn text_search(target: &mut PgConnection) -> anyhow::Result<()> {
    let available = "select exists (select from pg_available_extensions where name = 'pg_trgm')";
    if sqlx::query_scalar::<_, bool>(available).fetch_one(&mut *target).await? {
        target
            .execute(
                "create extension if not exists pg_trgm schema public;
                 grant usage on schema public to kronos_users;",
            )
            .await
            .context("create extension pg_trgm")?;
    }
    Ok(())
}

/// Lets kronos_dbadmin see every session's and statement's statistics, and installs `pg_stat_statements` where the
/// server has loaded it. Says whether it is there.
async fn statement_statistics(target: &mut PgConnection) -> anyhow::Result<bool> {
    target.execute("grant pg_read_all_stats to kronos_dbadmin").await.context("grant pg_read_all_stats")?;
    let loaded: bool = sqlx::query_scalar(
        "select coalesce(current_setting('shared_preload_libraries', true), '') like '%pg_stat_statements%'
            and exists (select from pg_available_extensions where name = 'pg_stat_statements')",
    )
    .fetch_one(&mut *target)
    .await?;
    if loaded {
        target
            .execute(
                "create extension if not exists pg_stat_statements schema public;
                 grant usage on schema public to kronos_dbadmin;",
            )
            .await
            .context("create extension pg_stat_statements")?;
    }
    Ok(loaded)
}
