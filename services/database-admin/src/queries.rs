//! Answers one query: judged, from memory or run, and recorded, whatever became of it. The rules are in `query`, the
//! running in `store::reader`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kronos_common::{
    identity::Claims,
    problem::{FieldError, Problem, Result},
};
use moka::sync::Cache;
use prometheus::IntCounterVec;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use crate::{
    config,
    store::{
        audit,
        catalogue::Readable,
        reader::{Answer, ReadError, Reader},
    },
};

/// A question.
#[derive(Debug, Clone)]
pub struct Question {
    /// The caller's text.
    pub sql: String,
    /// Values of `$1`, `$2`, …
    pub params: Vec<Value>,
    /// Rows at most.
    pub max_rows: Option<u32>,
    /// Not from memory.
    pub fresh: bool,
}

/// An answer, and how it came about.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The rows.
    pub answer: Arc<Answer>,
    /// From memory.
    pub cached: bool,
    /// How long it took now, in milliseconds.
    pub duration_ms: f64,
}

/// All that queries need.
pub struct Queries {
    reader: Arc<Reader>,
    pool: PgPool,
    config: config::Query,
    /// Heavy answers by the hash of what was asked.
    cache: Cache<[u8; 32], Arc<Answer>>,
    outcomes: IntCounterVec,
}

impl Queries {
    /// Puts them together. `pool` takes the records.
    pub fn new(reader: Arc<Reader>, pool: PgPool, config: config::Query, outcomes: IntCounterVec) -> Self {
        let cache = Cache::builder()
            .max_capacity(config.cache_bytes)
            .weigher(|_, answer: &Arc<Answer>| u32::try_from(answer.bytes).unwrap_or(u32::MAX))
            .time_to_live(Duration::from_secs(config.cache_seconds))
            .build();
        Self { reader, pool, config, cache, outcomes }
    }

    /// What may be read.
    ///
    /// # Errors
    /// The database is away.
    pub async fn readable(&self) -> Result<Arc<[Readable]>> {
        self.reader.readable().await.map_err(|error| problem(error, &self.config))
    }

    /// Answers a question, and records it. Must not be dropped before it ends: spawn it.
    ///
    /// # Errors
    /// 422 with the rule that refuses it; 503 when the database is away, also when nothing can be recorded.
    pub async fn answer(&self, question: Question, claims: &Claims) -> Result<Answered> {
        let begun = Instant::now();
        let found = self.find(&question).await;
        let duration = begun.elapsed();
        let entry = self.entry(&question, claims, &found, duration);
        self.outcomes.with_label_values(&[entry.outcome]).inc();
        // What can't be recorded is not answered.
        audit::insert(&self.pool, &entry).await?;
        let (answer, cached) = found.map_err(|error| problem(error, &self.config))?;
        Ok(Answered { answer, cached, duration_ms: duration.as_secs_f64() * 1000.0 })
    }

    async fn find(&self, question: &Question) -> std::result::Result<(Arc<Answer>, bool), ReadError> {
        let begun = Instant::now();
        let judged = self.reader.judge(&question.sql).await?;
        if judged.parameters != question.params.len() {
            let (wanted, came) = (judged.parameters, question.params.len());
            let detail = format!("the statement has {wanted} parameters, {came} values came");
            return Err(ReadError::Parameter { index: wanted.min(came), detail });
        }
        let rows = question.max_rows.unwrap_or(self.config.default_rows).min(self.config.max_rows);
        let key = key(&judged.sql, &question.params, rows);
        if !question.fresh
            && let Some(answer) = self.cache.get(&key)
        {
            return Ok((answer, true));
        }
        let answer = Arc::new(self.reader.run(&judged, &question.params, rows as usize).await?);
        if begun.elapsed() >= Duration::from_millis(self.config.cache_min_ms) {
            self.cache.insert(key, Arc::clone(&answer));
        }
        Ok((answer, false))
    }

    fn entry<'a>(
        &self,
        question: &'a Question,
        claims: &'a Claims,
        found: &'a std::result::Result<(Arc<Answer>, bool), ReadError>,
        duration: Duration,
    ) -> audit::Entry<'a> {
        let (outcome, rule) = match found {
            Ok((_, true)) => ("cached", None),
            Ok((_, false)) => ("answered", None),
            Err(ReadError::Refused(refusal)) => ("refused", Some(refusal.rule)),
            Err(ReadError::TooHeavy { .. }) => ("refused", Some("too_heavy")),
            Err(ReadError::Server { code, .. }) => ("failed", Some(code.as_str())),
            Err(ReadError::TooSlow) => ("failed", Some("too_slow")),
            Err(ReadError::RowTooLarge) => ("failed", Some("row_too_large")),
            Err(ReadError::Parameter { .. }) => ("failed", Some("parameter")),
            Err(ReadError::StrongRole) => ("failed", Some("strong_role")),
            Err(ReadError::Database(_)) => ("failed", Some("database")),
        };
        let place = match found {
            Err(ReadError::Refused(refusal)) if refusal.line > 0 => Some(refusal),
            _ => None,
        };
        audit::Entry {
            subject: &claims.sub,
            client_id: &claims.client_id,
            outcome,
            rule,
            line: place.and_then(|refusal| i32::try_from(refusal.line).ok()),
            column: place.and_then(|refusal| i32::try_from(refusal.column).ok()),
            sql: &question.sql,
            sql_sha256: hex::encode(Sha256::digest(&question.sql)),
            row_count: found.as_ref().ok().and_then(|(answer, _)| i32::try_from(answer.rows.len()).ok()),
            duration_ms: i32::try_from(duration.as_millis()).unwrap_or(i32::MAX),
        }
    }
}

/// Same statement, same values, same number of rows. Every caller has the same rights: those of the reader.
fn key(sql: &str, params: &[Value], rows: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((sql.len() as u64).to_be_bytes());
    hash.update(sql);
    hash.update(rows.to_be_bytes());
    for value in params {
        let text = value.to_string();
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

/// What the caller is told.
fn problem(error: ReadError, limits: &config::Query) -> Problem {
    let sql = |code: &'static str, detail: String| Problem::field("/sql", code, detail);
    match error {
        ReadError::Refused(refusal) if refusal.line > 0 => {
            sql(refusal.rule, format!("{} (line {}, column {})", refusal.detail, refusal.line, refusal.column))
        }
        ReadError::Refused(refusal) => sql(refusal.rule, refusal.detail),
        ReadError::Parameter { index, detail } => {
            Problem::invalid(vec![FieldError::new(format!("/params/{index}"), "parameter", detail)])
        }
        ReadError::Server { code, message } if code == "42501" => {
            sql("not_readable", format!("{message}: GET /db/tables lists the columns that can be read"))
        }
        ReadError::Server { code, message } => sql("refused_by_server", format!("{message} (SQLSTATE {code})")),
        ReadError::TooHeavy { cost, rows } => sql(
            "too_heavy",
            format!(
                "the planner expects a cost of {cost:.0} and {rows:.0} rows; {:.0} and {:.0} are allowed: narrow it down",
                limits.max_cost, limits.max_plan_rows
            ),
        ),
        ReadError::TooSlow => {
            sql("too_slow", format!("it did not end within {} ms: narrow it down", limits.statement_timeout_ms))
        }
        ReadError::RowTooLarge => {
            sql("row_too_large", format!("a row has more than {} bytes: select less of it", limits.max_row_bytes))
        }
        ReadError::StrongRole => Problem::unavailable("reader's role", Duration::from_secs(60)).caused_by(error),
        ReadError::Database(error) => error.into(),
    }
}
