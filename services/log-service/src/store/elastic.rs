//! Elasticsearch: the index template, bulk writes, and search. What it misses is filled again from PostgreSQL, so nothing
//! here needs to be durable.

mod document;
mod dsl;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::NaiveDate;
use elasticsearch::{
    BulkOperation, BulkOperations, BulkParts, Elasticsearch, SearchParts,
    auth::Credentials,
    http::{
        Method, Url,
        headers::HeaderMap,
        response::Response,
        transport::{SingleNodeConnectionPool, TransportBuilder},
    },
    indices::{IndicesDeleteParts, IndicesGetAliasParts, IndicesPutIndexTemplateParts},
    params::Refresh,
};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use self::document::Document;
use super::Search;
use crate::{config, line::Line};

/// How long a search does not try an Elasticsearch that failed: PostgreSQL answers at once.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// How attributes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    /// One `flattened` field: any number of names, one field in the mapping.
    Flattened,
    /// A server without that type: exact `name=value` pairs in one keyword field.
    Pairs,
}

/// A client with a circuit breaker.
#[derive(Debug)]
pub struct Elastic {
    client: Elasticsearch,
    config: config::Elasticsearch,
    open_until: Mutex<Option<Instant>>,
    attributes: AtomicU8,
}

/// What a bulk write came to.
#[derive(Debug, Default)]
pub struct Bulk {
    /// Lines that the index will never take, by seq, with its reason.
    pub refused: Vec<(i64, String)>,
    /// Why other lines were not taken now; then the whole batch is to be repeated.
    pub failed: Option<String>,
}

impl Elastic {
    /// Makes the client; nothing is sent.
    ///
    /// # Errors
    /// A bad URL.
    pub fn new(config: &config::Elasticsearch) -> anyhow::Result<Self> {
        let url = Url::parse(&config.url).context("configuration key `elasticsearch.url`")?;
        let mut transport =
            TransportBuilder::new(SingleNodeConnectionPool::new(url)).disable_proxy().timeout(Duration::from_secs(30));
        if !config.username.is_empty() {
            let password = config.password.expose_secret().to_owned();
            transport = transport.auth(Credentials::Basic(config.username.clone(), password));
        }
        let client = Elasticsearch::new(transport.build().context("make the Elasticsearch client")?);
        Ok(Self { client, config: config.clone(), open_until: Mutex::default(), attributes: AtomicU8::new(0) })
    }

    /// The cluster's own id; changes when its data was lost.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn cluster(&self) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct State {
            cluster_uuid: String,
        }
        let none: Option<&()> = None;
        let body: Option<&str> = None;
        let response = self
            .client
            .send(Method::Get, "/_cluster/state/none", HeaderMap::new(), none, body, Some(self.config.timeout()))
            .await?;
        let state: State = checked(response).await?.json().await?;
        anyhow::ensure!(state.cluster_uuid != "_na_", "the cluster has not formed yet");
        Ok(state.cluster_uuid)
    }

    /// Puts the template for the daily indices, and learns how attributes can be kept.
    ///
    /// # Errors
    /// It does not answer, or refuses the template.
    pub async fn put_template(&self) -> anyhow::Result<()> {
        let mut attributes = Attributes::Flattened;
        let mut response = self.send_template(attributes).await?;
        if response.status_code().as_u16() == 400 {
            let refusal = response.text().await?;
            anyhow::ensure!(refusal.contains("flattened"), "the index template was refused: {refusal}");
            tracing::info!("Elasticsearch has no flattened fields, attributes are kept as pairs");
            attributes = Attributes::Pairs;
            response = self.send_template(attributes).await?;
        }
        checked(response).await?;
        self.attributes.store(attributes as u8, Ordering::Relaxed);
        Ok(())
    }

    async fn send_template(&self, attributes: Attributes) -> anyhow::Result<Response> {
        let name = format!("{}logs", self.config.prefix);
        let template = document::template(&self.config, &self.pattern(), attributes);
        Ok(self
            .client
            .indices()
            .put_index_template(IndicesPutIndexTemplateParts::Name(&name))
            .body(template)
            .request_timeout(Duration::from_secs(10))
            .send()
            .await?)
    }

    /// Writes the lines; those that are there already are left as they are.
    ///
    /// # Errors
    /// It does not answer; some lines may have been taken.
    pub async fn bulk(&self, lines: &[Line]) -> anyhow::Result<Bulk> {
        let attributes = self.attributes();
        let mut operations = BulkOperations::new();
        for line in lines {
            let index = self.index(line.received_at.date_naive());
            let document = Document::of(line, attributes);
            operations.push(BulkOperation::create(document).id(line.key.to_string()).index(index))?;
        }
        let sent = self.client.bulk(BulkParts::None).body(vec![operations]).send().await;
        let answer: BulkAnswer = checked(sent?).await?.json().await.context("read the answer to a bulk request")?;
        anyhow::ensure!(answer.items.len() == lines.len(), "the answer to a bulk request is not complete");
        let mut bulk = Bulk::default();
        for (line, item) in lines.iter().zip(answer.items) {
            let Some(error) = item.create.error else { continue };
            let reason = format!("{}: {}", error.kind, error.reason.unwrap_or_default());
            match item.create.status {
                409 => {}
                // Of the 400s, a full cluster and a wrong index pass; what is wrong with the document stays.
                400 if !matches!(error.kind.as_str(), "validation_exception" | "invalid_index_name_exception") => {
                    bulk.refused.push((line.seq, reason));
                }
                _ => bulk.failed = Some(reason),
            }
        }
        Ok(bulk)
    }

    /// Finds lines. Fails at once for a while after it has failed.
    ///
    /// # Errors
    /// It does not answer in time, or not well.
    pub async fn find(&self, search: &Search) -> anyhow::Result<Vec<Line>> {
        anyhow::ensure!(!self.is_open(), "Elasticsearch failed a moment ago");
        let found = tokio::time::timeout(self.config.timeout(), self.search(search)).await;
        let found = found.unwrap_or_else(|_| Err(anyhow::anyhow!("Elasticsearch did not answer in time")));
        let until = if found.is_ok() { None } else { Some(Instant::now() + OPEN_FOR) };
        *self.open_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        found
    }

    async fn search(&self, search: &Search) -> anyhow::Result<Vec<Line>> {
        let response = self
            .client
            .search(SearchParts::Index(&[&self.pattern()]))
            .ignore_unavailable(true)
            .allow_no_indices(true)
            .body(dsl::body(search, self.attributes()))
            .send()
            .await?;
        let answer: SearchAnswer = checked(response).await?.json().await.context("read the answer to a search")?;
        anyhow::ensure!(!answer.timed_out && answer.shards.failed == 0, "a part of the index did not answer");
        answer.hits.hits.into_iter().map(|hit| document::line(&hit.id, hit.source)).collect()
    }

    /// Takes lines out of the index, each by its key and the day of its receipt; one that is not there is no error.
    ///
    /// # Errors
    /// It does not answer, or some are left.
    pub async fn forget(&self, lines: &[(Uuid, NaiveDate)]) -> anyhow::Result<()> {
        let mut operations = BulkOperations::new();
        for (key, day) in lines {
            operations.push(BulkOperation::<()>::delete(key.to_string()).index(self.index(*day)))?;
        }
        let sent = self.client.bulk(BulkParts::None).refresh(Refresh::True).body(vec![operations]).send().await;
        let answer: Value = checked(sent?).await?.json().await.context("read the answer to a bulk request")?;
        let items = answer["items"].as_array().context("the answer to a bulk request has no items")?;
        let is_gone = |item: &&Value| matches!(item["delete"]["status"].as_u64(), Some(200 | 404));
        let left = lines.len() - items.iter().filter(is_gone).count();
        anyhow::ensure!(left == 0, "Elasticsearch could not forget {left} lines");
        Ok(())
    }

    /// Deletes the indices of the days before `oldest` and says how many.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn drop_before(&self, oldest: NaiveDate) -> anyhow::Result<usize> {
        let pattern = self.pattern();
        let response = self
            .client
            .indices()
            .get_alias(IndicesGetAliasParts::Index(&[&pattern]))
            .ignore_unavailable(true)
            .allow_no_indices(true)
            .request_timeout(Duration::from_secs(10))
            .send()
            .await?;
        let indices: serde_json::Map<String, Value> = checked(response).await?.json().await?;
        let start = format!("{}logs-", self.config.prefix);
        let old: Vec<&str> = indices
            .keys()
            .filter(|name| {
                let day = name.strip_prefix(&start).and_then(|day| NaiveDate::parse_from_str(day, "%Y.%m.%d").ok());
                day.is_some_and(|day| day < oldest)
            })
            .map(String::as_str)
            .collect();
        if !old.is_empty() {
            let parts = IndicesDeleteParts::Index(&old);
            checked(self.client.indices().delete(parts).ignore_unavailable(true).send().await?).await?;
        }
        Ok(old.len())
    }

    fn is_open(&self) -> bool {
        let open_until = *self.open_until.lock().unwrap_or_else(PoisonError::into_inner);
        open_until.is_some_and(|until| Instant::now() < until)
    }

    fn attributes(&self) -> Attributes {
        if self.attributes.load(Ordering::Relaxed) == Attributes::Pairs as u8 {
            Attributes::Pairs
        } else {
            Attributes::Flattened
        }
    }

    fn pattern(&self) -> String {
        format!("{}logs-*", self.config.prefix)
    }

    fn index(&self, day: NaiveDate) -> String {
        format!("{}logs-{}", self.config.prefix, day.format("%Y.%m.%d"))
    }
}

/// The answer, if it is a good one.
async fn checked(response: Response) -> anyhow::Result<Response> {
    let status = response.status_code();
    if status.is_success() {
        return Ok(response);
    }
    let text: String = response.text().await.unwrap_or_default().chars().take(500).collect();
    anyhow::bail!(json!({ "status": status.as_u16(), "answer": text }).to_string())
}

#[derive(Deserialize)]
struct BulkAnswer {
    items: Vec<BulkItem>,
}

#[derive(Deserialize)]
struct BulkItem {
    create: BulkResult,
}

#[derive(Deserialize)]
struct BulkResult {
    status: u16,
    error: Option<BulkError>,
}

#[derive(Deserialize)]
struct BulkError {
    #[serde(rename = "type")]
    kind: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct SearchAnswer {
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
    hits: Hits,
}

#[derive(Deserialize)]
struct Shards {
    failed: u32,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_source")]
    source: document::Source,
}
