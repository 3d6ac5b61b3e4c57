//! Who may do what beyond their own schema: nobody, but for the reader's columns, the backup's tables, and what
//! `/db/status` needs. Every right is written here; none comes from a predefined role that reads data.

use std::io::Write;

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::roles::{BACKUP, READER, SERVICES, names};

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
    let _ = READER;
    let statements = statement_statistics(target).await?;
    writeln!(
        out,
        "{:<10} statement statistics {}",
        "grants",
        if statements { "on" } else { "not available" }
    )?;
    Ok(())
}

/// Lets kronos_dbadmin see every session's and statement's statistics, and installs `pg_stat_statements` where the
/// server has loaded it. Says whether it is there.
async fn statement_statistics(target: &mut PgConnection) -> anyhow::Result<bool> {
    target
        .execute("grant pg_read_all_stats to kronos_dbadmin")
        .await
        .context("grant pg_read_all_stats")?;
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
