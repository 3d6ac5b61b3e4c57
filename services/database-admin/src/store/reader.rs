//! Runs a caller's query, and nothing else does. Its own role on its own small pool; the extended protocol only, so one
//! statement at most; a read-only transaction that always ends in a rollback; timeouts, a cost gate before, row and byte
//! caps by a cursor. A connection whose state is in any doubt is closed, not reused.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures::{FutureExt as _, future::BoxFuture};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Column as _, Either, Executor as _, PgConnection, PgPool, Row as _, SqlSafeStr as _, Statement as _,
    TypeInfo as _, ValueRef as _,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow, Postgres},
};
use tokio::time::Instant;

use super::{
    catalogue::{self, Readable},
    parameters,
};
use crate::{
    config,
    query::{self, Judged, Kind, Known, Refusal, cells},
};

/// How long the catalogue's word is taken for the present: a grant shows after so long at most.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// How many rows are fetched at a time; with the row limit, what an answer may hold in memory beyond its own limit.
const FETCH: &str = "fetch forward 50 from kronos_query";
const FETCH_ROWS: usize = 50;
/// Stands in the message of the error with which the server refuses a row that is too large.
const ROW_MARK: &str = "kronos: row of ";

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_name: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
    /// There was more, but for the row or the byte limit.
    pub truncated: bool,
    /// About how much memory it takes.
    pub bytes: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("refused by rule {}", .0.rule)]
    Refused(Refusal),
    #[error("parameter {index} does not fit: {detail}")]
    Parameter { index: usize, detail: String },
    #[error("the server refuses the statement")]
    Server { code: String, message: String },
    #[error("estimated cost {cost}, rows {rows}")]
    TooHeavy { cost: f64, rows: f64 },
    #[error("ran out of time")]
    TooSlow,
    #[error("a row is too large")]
    RowTooLarge,
    #[error("the reader's role has rights that it should not have")]
    StrongRole,
    #[error("database")]
    Database(#[from] sqlx::Error),
}

/// What is known of the server, and since when.
struct Knowledge {
    at: Instant,
    known: Arc<Known>,
    readable: Arc<[Readable]>,
}

/// The pool of the reader's role.
pub struct Reader {
    pool: PgPool,
    limits: config::Query,
    knowledge: Mutex<Option<Knowledge>>,
}

impl Reader {
    /// Makes the pool; its connections open at first use.
    ///
    /// # Errors
    /// A malformed URL.
    pub fn new(reader: &config::Reader, limits: config::Query) -> anyhow::Result<Self> {
        let options: PgConnectOptions = reader
            .url
            .expose_secret()
            .parse()
            .ok()
            .context("configuration key `reader.url` is not a postgres:// URL")?;
        // No statement is kept on the server: DISCARD ALL would take it away.
        let options = options.application_name("database-admin query").statement_cache_capacity(0);
        let pool = PgPoolOptions::new()
            .max_connections(reader.max_connections)
            .acquire_timeout(Duration::from_millis(reader.acquire_timeout_ms))
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(options);
        Ok(Self { pool, limits, knowledge: Mutex::new(None) })
    }

    /// Whether the reader's role can log in.
    pub fn check(&self) -> BoxFuture<'static, anyhow::Result<()>> {
        let pool = self.pool.clone();
        async move {
            sqlx::query("select 1").execute(&pool).await?;
            Ok(())
        }
        .boxed()
    }

    /// The columns that may be read.
    pub async fn readable(&self) -> Result<Arc<[Readable]>, ReadError> {
        Ok(self.knowledge().await?.1)
    }

    /// Judges `sql`.
    pub async fn judge(&self, sql: &str) -> Result<Judged, ReadError> {
        let (known, _) = self.knowledge().await?;
        let sql = sql.to_owned();
        tokio::task::spawn_blocking(move || query::judge(&sql, &known))
            .await
            .map_err(|error| ReadError::Database(sqlx::Error::Io(std::io::Error::other(error))))?
            .map_err(ReadError::Refused)
    }

    async fn knowledge(&self) -> Result<(Arc<Known>, Arc<[Readable]>), ReadError> {
        let fresh = {
            let knowledge = self.knowledge.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = knowledge.as_ref().filter(|found| found.at.elapsed() < KNOWN_FOR);
            fresh.map(|found| (Arc::clone(&found.known), Arc::clone(&found.readable)))
        };
        if let Some(fresh) = fresh {
            return Ok(fresh);
        }
        // Several may ask at once: better than all waiting for one.
        let mut connection = self.pool.acquire().await?;
        let readable: Arc<[Readable]> = catalogue::readable(&mut connection).await?.into();
        let known = Arc::new(catalogue::known(&mut connection, &readable).await?);
        let found = Knowledge { at: Instant::now(), known: Arc::clone(&known), readable: Arc::clone(&readable) };
        *self.knowledge.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok((known, readable))
    }

    /// Runs a judged statement, `max_rows` rows of it. Must not be dropped before it ends: spawn it.
    pub async fn run(&self, judged: &Judged, params: &[Value], max_rows: usize) -> Result<Answer, ReadError> {
        let mut connection = self.pool.acquire().await?;
        let deadline = Duration::from_millis(self.limits.deadline_ms);
        let read = tokio::time::timeout(deadline, self.read(&mut connection, judged, params, max_rows)).await;
        let clean = match &read {
            // What it is doing is not known: the server ends it when the connection is gone.
            Err(_) => false,
            Ok(_) => tokio::time::timeout(Duration::from_secs(2), clean(&mut connection))
                .await
                .is_ok_and(|done| done.is_ok()),
        };
        if !clean {
            close(connection);
        }
        read.unwrap_or(Err(ReadError::TooSlow)).map_err(named)
    }

    async fn read(
        &self,
        connection: &mut PgConnection,
        judged: &Judged,
        params: &[Value],
        max_rows: usize,
    ) -> Result<Answer, ReadError> {
        if !catalogue::is_weak(connection).await? {
            return Err(ReadError::StrongRole);
        }
        sqlx::raw_sql("begin isolation level repeatable read read only").execute(&mut *connection).await?;
        self.set_limits(connection).await?;
        match judged.kind {
            Kind::Rows => self.rows(connection, judged, params, max_rows).await,
            Kind::Explain | Kind::Show => self.lines(connection, judged, params, max_rows).await,
        }
    }

    /// Settings for this transaction alone.
    async fn set_limits(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let timeout = self.limits.statement_timeout_ms;
        sqlx::raw_sql(AssertSqlSafe(format!(
            "set local statement_timeout = {timeout};
             set local lock_timeout = 1000;
             set local idle_in_transaction_session_timeout = 30000;
             set local client_connection_check_interval = 500;
             set local search_path = pg_catalog;
             set local standard_conforming_strings = on;
             set local backslash_quote = off;
             set local timezone = 'UTC';
             set local datestyle = 'ISO, YMD';
             set local intervalstyle = 'iso_8601';
             set local bytea_output = 'hex';
             set local extra_float_digits = 1;
             set local work_mem = '16MB';
             set local max_parallel_workers_per_gather = 0;
             set local jit = off;"
        )))
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn rows(
        &self,
        connection: &mut PgConnection,
        judged: &Judged,
        params: &[Value],
        max_rows: usize,
    ) -> Result<Answer, ReadError> {
        // As part of another query a statement can be nothing but a query. The outer one refuses a row that is too
        // large while it is still on the server: its size in an impossible cast becomes the error's message.
        let limit = self.limits.max_row_bytes;
        let sql = format!(
            "select q.* from (select * from ({}) u offset 0) q where case when octet_length(q::text) <= {limit} \
             then true else ('{ROW_MARK}' || octet_length(q::text))::boolean end",
            judged.sql
        );
        let (columns, types) = prepare(connection, &sql).await?;
        let explain = format!("explain (format json) {sql}");
        let plan: Value = sqlx::query_scalar_with(AssertSqlSafe(explain), parameters::bind(&types, params)?)
            .persistent(false)
            .fetch_one(&mut *connection)
            .await?;
        self.cost_gate(&plan)?;

        let declare = format!("declare kronos_query no scroll cursor without hold for {sql}");
        sqlx::query_with(AssertSqlSafe(declare), parameters::bind(&types, params)?)
            .persistent(false)
            .execute(&mut *connection)
            .await?;
        let mut answer = Answer { columns, rows: Vec::new(), truncated: false, bytes: 0 };
        loop {
            let batch = sqlx::raw_sql(FETCH).fetch_all(&mut *connection).await?;
            for row in &batch {
                let cells = texts(row)?;
                let bytes: usize = cells.iter().map(|cell| cell.map_or(4, str::len) + 3).sum();
                if answer.rows.len() == max_rows || answer.bytes + bytes > self.limits.max_result_bytes {
                    answer.truncated = true;
                    return Ok(answer);
                }
                answer.bytes += bytes;
                let cells = row.columns().iter().zip(cells);
                answer.rows.push(cells.map(|(column, text)| cells::json(column.type_info().name(), text)).collect());
            }
            if batch.len() < FETCH_ROWS {
                return Ok(answer);
            }
        }
    }

    /// EXPLAIN and SHOW: lines of text.
    async fn lines(
        &self,
        connection: &mut PgConnection,
        judged: &Judged,
        params: &[Value],
        max_rows: usize,
    ) -> Result<Answer, ReadError> {
        let (columns, types) = prepare(connection, &judged.sql).await?;
        let found = sqlx::query_with(AssertSqlSafe(judged.sql.clone()), parameters::bind(&types, params)?)
            .persistent(false)
            .fetch_all(&mut *connection)
            .await?;
        let mut answer = Answer { columns, rows: Vec::new(), truncated: found.len() > max_rows, bytes: 0 };
        for row in found.iter().take(max_rows) {
            let cells = texts(row)?;
            answer.bytes += cells.iter().map(|cell| cell.map_or(4, str::len) + 3).sum::<usize>();
            let cells = row.columns().iter().zip(cells);
            answer.rows.push(cells.map(|(column, text)| cells::json(column.type_info().name(), text)).collect());
        }
        Ok(answer)
    }

    fn cost_gate(&self, plan: &Value) -> Result<(), ReadError> {
        let root = &plan[0]["Plan"];
        // A plan that can't be read is not a cheap one.
        let cost = root["Total Cost"].as_f64().unwrap_or(f64::INFINITY);
        let rows = root["Plan Rows"].as_f64().unwrap_or(f64::INFINITY);
        if cost > self.limits.max_cost || rows > self.limits.max_plan_rows {
            return Err(ReadError::TooHeavy { cost, rows });
        }
        Ok(())
    }
}

/// The columns of the answer and the types of the parameters. Nothing runs.
async fn prepare(
    connection: &mut PgConnection,
    sql: &str,
) -> Result<(Vec<Column>, Vec<sqlx::postgres::PgTypeInfo>), ReadError> {
    let statement = connection.prepare(AssertSqlSafe(sql.to_owned()).into_sql_str()).await?;
    let columns = statement
        .columns()
        .iter()
        .map(|column| Column {
            name: column.name().to_owned(),
            type_name: column.type_info().name().to_ascii_lowercase(),
        })
        .collect();
    let types = match statement.parameters() {
        Some(Either::Left(types)) => types.to_vec(),
        _ => Vec::new(),
    };
    Ok((columns, types))
}

/// The cells as the server wrote them.
fn texts(row: &PgRow) -> Result<Vec<Option<&str>>, ReadError> {
    (0..row.len())
        .map(|index| {
            let value = row.try_get_raw(index)?;
            if value.is_null() {
                return Ok(None);
            }
            value.as_str().map(Some).map_err(|error| ReadError::Database(sqlx::Error::Decode(error)))
        })
        .collect()
}

/// Nothing of this query is left on the connection: no transaction, no setting, no advisory lock, no statement.
async fn clean(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql("rollback").execute(&mut *connection).await?;
    sqlx::raw_sql("discard all").execute(&mut *connection).await?;
    Ok(())
}

/// Closes the socket at once, without waiting for the server.
fn close(connection: PoolConnection<Postgres>) {
    drop(connection.detach());
}

/// Gives the server's errors that have a meaning here their name.
fn named(error: ReadError) -> ReadError {
    let ReadError::Database(sqlx::Error::Database(database)) = &error else {
        return error;
    };
    let code = database.code().unwrap_or_default().into_owned();
    match code.as_str() {
        "57014" => ReadError::TooSlow,
        "22P02" if database.message().contains(ROW_MARK) => ReadError::RowTooLarge,
        // 53400: temp_file_limit; 54: limits of the server; the rest is the caller's: 0A not supported, 21 and 22 data,
        // 25006 read-only, 2201 arguments, 42 names, types and rights, P0 raised.
        "25006" | "53400" => ReadError::Server { code, message: database.message().to_owned() },
        _ if ["0A", "21", "22", "42", "54", "P0"].iter().any(|class| code.starts_with(class)) => {
            ReadError::Server { code, message: database.message().to_owned() }
        }
        _ => error,
    }
}
