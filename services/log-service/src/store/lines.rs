//! The table `lines`: writing batches, reading by seq. All writers take one advisory lock before the first seq and hold it
//! until they commit, so lines become visible in the order of their seq: who reads up to N has missed none below it.

use std::{collections::HashSet, fmt::Write as _};

use chrono::{DateTime, Duration, Utc};
use serde_json::{Map, Value};
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use super::partitions::Days;
use crate::line::Line;

/// Any number that no other use of advisory locks in this schema's database has.
const WRITER_LOCK: i64 = 0x6b72_6f6e_6c6f_6773;

/// Lines that are read at once take no more; a bulk request made of them is far below what Elasticsearch takes.
const PAGE_BYTES: i64 = 16 << 20;

/// The table `lines`.
#[derive(Debug)]
pub struct Lines {
    pub pool: PgPool,
    pub days: Days,
}

/// A row as it is read.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    seq: i64,
    key: Uuid,
    id: String,
    occurred_at: DateTime<Utc>,
    received_at: DateTime<Utc>,
    service: String,
    level: String,
    message: String,
    attributes: Json<Map<String, Value>>,
    trace_id: Option<String>,
    terms: String,
}

impl TryFrom<Row> for Line {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            seq: row.seq,
            key: row.key,
            named: false,
            id: row.id,
            occurred_at: row.occurred_at,
            received_at: row.received_at,
            service: row.service,
            level: row.level.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            message: row.message,
            attributes: row.attributes.0,
            trace_id: row.trace_id,
            terms: row.terms,
        })
    }
}

impl Lines {
    pub fn new(pool: PgPool) -> Self {
        Self { pool, days: Days::default() }
    }

    /// Writes the lines in one transaction and says of each whether it is new; a line whose key was there, or came twice in
    /// this batch, is not. `check_all`: lines may have been written before, whoever named them (they come from the spill).
    ///
    /// # Errors
    /// Nothing was written, or, if the connection broke during the commit, all of it.
    pub async fn write(&self, lines: &[Line], check_all: bool) -> sqlx::Result<Vec<bool>> {
        self.days.ensure(&self.pool, lines.iter().map(|line| line.received_at.date_naive())).await?;
        let mut tx = self.pool.begin().await?;
        let new = write_in(&mut tx, lines, check_all).await?;
        tx.commit().await?;
        Ok(new)
    }

    /// The next lines after this seq, in its order: at most `limit`, fewer if they are long; none only if there is none.
    ///
    /// # Errors
    /// Of the database.
    pub async fn after(&self, seq: i64, limit: i64) -> sqlx::Result<Vec<Line>> {
        let mut connection = self.pool.acquire().await?;
        after_in(&mut connection, seq, limit).await
    }

    /// The highest seq; 0 if there is none.
    ///
    /// # Errors
    /// Of the database.
    pub async fn last_seq(&self) -> sqlx::Result<i64> {
        let (seq,): (Option<i64>,) = sqlx::query_as("select max(seq) from lines").fetch_one(&self.pool).await?;
        Ok(seq.unwrap_or(0))
    }
}

/// [`Lines::after`] on a connection of the caller.
///
/// # Errors
/// Of the database.
pub(super) async fn after_in(connection: &mut PgConnection, seq: i64, limit: i64) -> sqlx::Result<Vec<Line>> {
    let rows: Vec<Row> = sqlx::query_as(
        "select seq, key, id, occurred_at, received_at, service, level, message, attributes, trace_id, terms
         from (
             select *, row_number() over (order by seq) as place,
                    sum(octet_length(message) + octet_length(terms)) over (order by seq) as bytes
             from (select * from lines where seq > $1 order by seq limit $2) page
         ) page
         where bytes <= $3 or place = 1
         order by seq",
    )
    .bind(seq)
    .bind(limit)
    .bind(PAGE_BYTES)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Line::try_from).collect()
}

/// [`Lines::write`] in a transaction of the caller, who should commit soon: other writers wait. The partitions must be there.
///
/// # Errors
/// Of the database; the transaction is then of no use.
pub async fn write_in(connection: &mut PgConnection, lines: &[Line], check_all: bool) -> sqlx::Result<Vec<bool>> {
    // A writer that hangs here must not hold up all the others.
    sqlx::query("select set_config('idle_in_transaction_session_timeout', '10000', true), pg_advisory_xact_lock($1)")
        .bind(WRITER_LOCK)
        .execute(&mut *connection)
        .await?;
    let may_be_there: Vec<Uuid> = lines.iter().filter(|line| check_all || line.named).map(|line| line.key).collect();
    let mut seen: HashSet<Uuid> = HashSet::new();
    if !may_be_there.is_empty() {
        let first = lines.iter().map(|line| line.received_at.date_naive()).min().unwrap_or_default();
        let there: Vec<(Uuid,)> = sqlx::query_as("select key from lines where key = any($1) and day >= $2")
            .bind(&may_be_there)
            .bind(first - Duration::days(1))
            .fetch_all(&mut *connection)
            .await?;
        seen.extend(there.into_iter().map(|(key,)| key));
    }
    let new: Vec<bool> = lines.iter().map(|line| seen.insert(line.key)).collect();
    let mut text = String::new();
    for (line, _) in lines.iter().zip(&new).filter(|(_, new)| **new) {
        push_row(&mut text, line)?;
    }
    if !text.is_empty() {
        let mut copy = connection
            .copy_in_raw(
                "copy lines (day, key, id, occurred_at, received_at, service, level, message, attributes, trace_id, terms)
                 from stdin",
            )
            .await?;
        copy.send(text.into_bytes()).await?;
        copy.finish().await?;
    }
    Ok(new)
}

/// One row in COPY's text format.
fn push_row(text: &mut String, line: &Line) -> sqlx::Result<()> {
    let attributes = serde_json::to_string(&line.attributes).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    let _ = write!(text, "{}\t{}\t", line.received_at.date_naive(), line.key);
    push_field(text, &line.id);
    let _ = write!(text, "{}\t{}\t", line.occurred_at.to_rfc3339(), line.received_at.to_rfc3339());
    push_field(text, &line.service);
    push_field(text, line.level.as_str());
    push_field(text, &line.message);
    push_field(text, &attributes);
    match &line.trace_id {
        Some(trace_id) => push_field(text, trace_id),
        None => text.push_str("\\N\t"),
    }
    push_field(text, &line.terms);
    text.pop();
    text.push('\n');
    Ok(())
}

fn push_field(text: &mut String, field: &str) {
    for c in field.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            c => text.push(c),
        }
    }
    text.push('\t');
}

/// Whether the database could not be reached or could not work now, so that the same lines may go in later. If not, it
/// refused the lines themselves.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        // Class 22: data exceptions; class 23: constraints.
        sqlx::Error::Database(error) => {
            !error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
        }
        sqlx::Error::Encode(_) => false,
        _ => true,
    }
}
