//! The lines on a person: those of which an attribute is the person's id, as in the line that keeps an event. They are shown,
//! and erased, in the record and in the index.

use std::time::Duration;

use anyhow::Context as _;
use chrono::NaiveDate;
use kronos_common::{
    privacy::{Erased, Holder, Person},
    problem::{Problem, Result},
};
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::App;

/// How many lines an export has; the newest.
const MOST_LINES: i64 = 10_000;
/// How many lines are taken out of the index at once.
const BATCH: usize = 1_000;
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A `like` pattern of the terms (`terms.rs`) of a line of which some attribute is exactly this.
fn pattern(id: Uuid) -> String {
    format!("%={id} %")
}

impl App {
    /// A transaction in which all days may be looked through.
    async fn look_through(&self) -> Result<Transaction<'static, Postgres>> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("set local statement_timeout = '15s'").execute(&mut *transaction).await?;
        Ok(transaction)
    }
}

impl Holder for App {
    async fn held(&self, person: &Person) -> Result<Value> {
        let mut transaction = self.look_through().await?;
        let lines: Vec<Value> = sqlx::query_scalar(
            r#"select to_jsonb(t) from (
                select id, occurred_at as "timestamp", service, level, message, attributes
                from lines where terms like $1 order by seq desc limit $2) t"#,
        )
        .bind(pattern(person.user_id))
        .bind(MOST_LINES)
        .fetch_all(&mut *transaction)
        .await?;
        Ok(json!({"lines": lines}))
    }

    async fn erase(&self, person: &Person) -> Result<Erased> {
        let mut transaction = self.look_through().await?;
        let lines: Vec<(Uuid, NaiveDate)> = sqlx::query_as("delete from lines where terms like $1 returning key, day")
            .bind(pattern(person.user_id))
            .fetch_all(&mut *transaction)
            .await?;
        // Before the record forgets which ones they are.
        for lines in lines.chunks(BATCH) {
            let forgotten = self.finder.elastic.forget(lines).await.context("take lines out of the index");
            forgotten.map_err(|error| Problem::unavailable("search index", RETRY_AFTER).caused_by(error))?;
        }
        transaction.commit().await?;
        Ok(Erased::default()
            .with("lines", lines.len() as u64)
            .keeping("lines that name the person in their text alone, until their days are over (retention.days)"))
    }
}
