//! A search over everything: the index, or the record when the index is away or late, and other systems, at the same time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use kronos_common::seal::Keyring;
use secrecy::SecretString;
use serde::Serialize;
use sqlx::PgPool;
use tokio::time;
use utoipa::ToSchema;

use super::{
    After, Order, Search,
    elastic::Elastic,
    index_state::{self, Progress},
    remote::{self, Answer, Question, Remote, Status},
    search, sources,
};
use crate::{
    config,
    line::Line,
    merge::{self, Found, OWN, Position},
    telemetry::Metrics,
};

/// Longest wait for the checkpoint and the list of sources.
const PATIENCE: Duration = Duration::from_secs(2);

/// All that can be searched.
pub struct Finder {
    pub pool: PgPool,
    pub elastic: Arc<Elastic>,
    pub http: reqwest::Client,
    pub keyring: Option<Arc<Keyring>>,
    pub config: config::Sources,
    /// Those that were registered when PostgreSQL was asked last.
    pub known_sources: Mutex<Vec<sources::SourceRow>>,
    pub max_lag: Duration,
    pub metrics: Metrics,
}

/// Which other systems are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Others {
    All,
    Named(Vec<String>),
}

/// One page.
#[derive(Debug)]
pub struct Page {
    pub items: Vec<Found>,
    pub next: Option<Position>,
    pub degraded: bool,
    pub watermark: Watermark,
    pub sources: Vec<SourceReport>,
}

/// Up to where our own part of an answer is complete.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Watermark {
    /// What answered: `elasticsearch`, `postgres` or `none`.
    pub backend: &'static str,
    /// Every line up to this one was searched; absent if it can't be known now.
    pub seq: Option<i64>,
    /// The last line that is kept.
    pub stored_seq: Option<i64>,
    /// Lines that are kept and were not searched.
    pub pending: Option<i64>,
    /// When the youngest line that was searched by Elasticsearch arrived.
    pub indexed_up_to: Option<DateTime<Utc>>,
}

/// What one source gave.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceReport {
    /// `kronos` or the name of a registered source.
    pub name: String,
    pub status: Status,
    /// Its lines in this answer.
    pub items: usize,
    pub took_ms: u64,
    /// Why, if the status is not `ok`.
    pub detail: Option<String>,
}

/// A page can't be given.
#[derive(Debug)]
pub enum FindError {
    /// Nothing answered.
    Unavailable,
    /// No source has this name.
    UnknownSource(String),
}

/// Our own part.
struct Own {
    lines: Option<Vec<Line>>,
    backend: &'static str,
    progress: Option<Progress>,
    took: Duration,
}

impl Finder {
    /// Searches.
    ///
    /// # Errors
    /// See [`FindError`].
    pub async fn find(&self, question: Question, others: Others) -> Result<Page, FindError> {
        let mut question = question;
        let limit = question.limit;
        // One more than asked tells whether there is a next page.
        question.limit += 1;
        let (own, asked) = tokio::join!(self.own(&question), self.ask(&question, others));
        let asked = asked?;
        let answered = own.lines.is_some() || asked.iter().any(|(_, answer)| is_good(answer.status));
        if !answered {
            return Err(FindError::Unavailable);
        }
        let degraded = own.backend != "elasticsearch";
        let watermark = watermark(&own);
        let mut sources = vec![SourceReport {
            name: OWN.to_owned(),
            status: if own.lines.is_some() { Status::Ok } else { Status::Unreachable },
            items: 0,
            took_ms: millis(own.took),
            detail: own.lines.is_none().then(|| "neither Elasticsearch nor PostgreSQL answers".to_owned()),
        }];
        let of_own = own.lines.unwrap_or_default().into_iter().map(|line| Found { source: OWN.to_owned(), line });
        let mut lists = vec![of_own.collect()];
        for (name, answer) in asked {
            let (status, took_ms, detail) = (answer.status, millis(answer.took), answer.detail);
            sources.push(SourceReport { name, status, items: 0, took_ms, detail });
            lists.push(answer.lines);
        }
        let (items, next) = merge::merge(lists, question.after.as_ref(), question.order, limit);
        for source in &mut sources {
            source.items = items.iter().filter(|found| found.source == source.name).count();
        }
        Ok(Page { items, next, degraded, watermark, sources })
    }

    async fn own(&self, question: &Question) -> Own {
        let begun = time::Instant::now();
        let progress = time::timeout(PATIENCE, index_state::progress(&self.pool)).await;
        let progress = progress.ok().and_then(Result::ok);
        let search = Search {
            filter: question.filter.clone(),
            order: question.order,
            after: question.after.as_ref().and_then(|after| own_place(after, question.order)),
            limit: question.limit,
        };
        let late = progress
            .and_then(|progress| progress.waiting_since)
            .is_some_and(|since| Utc::now().signed_duration_since(since).to_std().is_ok_and(|lag| lag > self.max_lag));
        let (lines, backend) = self.search(&search, late, progress.is_some()).await;
        self.metrics.searches.with_label_values(&[backend]).inc();
        Own { lines, backend, progress, took: begun.elapsed() }
    }

    async fn search(&self, search: &Search, late: bool, postgres: bool) -> (Option<Vec<Line>>, &'static str) {
        if !(late && postgres) {
            match self.elastic.find(search).await {
                Ok(lines) => return (Some(lines), "elasticsearch"),
                Err(error) => tracing::debug!(error = format!("{error:#}"), "search goes to PostgreSQL"),
            }
        }
        // Also if it did not tell the checkpoint in time: it may only be busy.
        match search::find(&self.pool, search).await {
            Ok(lines) => return (Some(lines), "postgres"),
            Err(error) => tracing::warn!(%error, "PostgreSQL does not answer a search"),
        }
        (None, "none")
    }

    async fn ask(&self, question: &Question, others: Others) -> Result<Vec<(String, Answer)>, FindError> {
        if others == Others::Named(Vec::new()) {
            return Ok(Vec::new());
        }
        let known = self.known().await;
        if let Others::Named(names) = &others
            && let Some(unknown) = names.iter().find(|name| !known.iter().any(|row| row.name == **name))
        {
            return Err(FindError::UnknownSource(unknown.clone()));
        }
        let wanted = known.into_iter().filter(|row| match &others {
            Others::All => true,
            Others::Named(names) => names.contains(&row.name),
        });
        let asking = wanted.map(|row| async {
            let name = row.name.clone();
            let answer = match self.opened(row) {
                Ok(remote) => remote::ask(&self.http, &self.config, &remote, question).await,
                Err(error) => {
                    tracing::error!(source = name, error = format!("{error:#}"), "a source's token can't be opened");
                    let detail = Some("its token can't be opened: register it again".to_owned());
                    Answer { lines: Vec::new(), status: Status::Refused, detail, took: Duration::ZERO }
                }
            };
            (name, answer)
        });
        Ok(join_all(asking).await)
    }

    /// The registered sources; while PostgreSQL is away, those that were registered last.
    async fn known(&self) -> Vec<sources::SourceRow> {
        let asked = time::timeout(PATIENCE, sources::all(&self.pool)).await;
        let mut known = self.known_sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(Ok(rows)) = asked {
            *known = rows;
        }
        known.clone()
    }

    fn opened(&self, row: sources::SourceRow) -> anyhow::Result<Remote> {
        let token = match row.token {
            None => None,
            Some(sealed) => {
                let keyring = self.keyring.as_ref().ok_or_else(|| anyhow::anyhow!("no sealing key is configured"))?;
                let opened = keyring.open(&sealed, &token_use(&row.name))?;
                Some(SecretString::from(std::str::from_utf8(&opened)?.to_owned()))
            }
        };
        Ok(Remote { name: row.name, url: row.url, token })
    }
}

/// What a source's token is sealed for.
pub fn token_use(name: &str) -> Vec<u8> {
    format!("log-source:{name}").into_bytes()
}

/// Our own lines come before those of others at the same time, so a place among others is behind all of ours at its time.
fn own_place(after: &Position, order: Order) -> Option<After> {
    let seq = match (after.is_own(), order) {
        (true, _) => after.seq,
        (false, Order::Newest) => i64::MIN,
        (false, Order::Oldest) => i64::MAX,
    };
    after.time().map(|occurred_at| After { occurred_at, seq })
}

fn watermark(own: &Own) -> Watermark {
    let progress = own.progress;
    let searched = |progress: Progress| if own.backend == "elasticsearch" { progress.indexed } else { progress.stored };
    Watermark {
        backend: own.backend,
        seq: progress.map(searched),
        stored_seq: progress.map(|progress| progress.stored),
        pending: progress.map(|progress| progress.stored - searched(progress)),
        indexed_up_to: progress.and_then(|progress| progress.indexed_up_to),
    }
}

fn is_good(status: Status) -> bool {
    matches!(status, Status::Ok | Status::Partial)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
