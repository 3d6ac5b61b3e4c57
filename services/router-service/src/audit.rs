//! The audit trail: one record per request, to the Kafka topic `requests`, in the form in which log-service takes lines, which makes
//! them searchable. Cores hand their records over in batches with the request log's; nobody waits for Kafka, and what it does
//! not take is dropped and counted.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use http::uri::PathAndQuery;
use kronos_common::{config, kafka};
use prometheus::IntCounter;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Serialize;

use crate::{request_log::Line, telemetry::method_label};

/// Without the configured prefix.
const TOPIC: &str = "requests";
/// Longer paths are cut.
const LONGEST_PATH: usize = 1024;

/// Where records go.
pub struct Audit {
    producer: FutureProducer,
    topic: String,
    dropped: IntCounter,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    timestamp: String,
    service: &'static str,
    level: &'static str,
    message: String,
    trace_id: String,
    /// Of the request: the same record is kept once.
    id: String,
    attributes: Attributes<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attributes<'a> {
    audit: bool,
    request_id: &'a str,
    method: &'a str,
    path: &'a str,
    route: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    status: u16,
    duration_us: u64,
    request_bytes: u64,
    response_bytes: u64,
    complete: bool,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
}

impl Audit {
    /// # Errors
    /// A setting that the client refuses; that no broker answers is not one.
    pub fn new(config: &config::Kafka, dropped: IntCounter) -> anyhow::Result<Self> {
        Ok(Self { producer: kafka::producer(config)?, topic: config.name(TOPIC), dropped })
    }

    /// Hands a batch to the client's queue, which is bounded. Never waits.
    pub fn write(&self, batch: &[Line]) {
        let now = Utc::now();
        let mut sent = Vec::with_capacity(batch.len());
        for line in batch {
            let payload = record(line, now);
            match self.producer.send_result(FutureRecord::<(), [u8]>::to(&self.topic).payload(&payload)) {
                Ok(delivery) => sent.push(delivery),
                Err(_) => self.dropped.inc(),
            }
        }
        let dropped = self.dropped.clone();
        tokio::spawn(async move {
            for delivery in sent {
                if !matches!(delivery.await, Ok(Ok(_))) {
                    dropped.inc();
                }
            }
        });
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("topic", &self.topic).finish_non_exhaustive()
    }
}

fn record(line: &Line, now: DateTime<Utc>) -> Vec<u8> {
    let path = line.target.as_ref().map_or("", PathAndQuery::path);
    let path = if path.len() <= LONGEST_PATH { path } else { path.get(..LONGEST_PATH).unwrap_or_default() };
    let request_id = line.request_id.to_str().unwrap_or_default();
    let begun = now - chrono::Duration::from_std(line.begun.elapsed()).unwrap_or_default();
    let mut trace_id = String::with_capacity(32);
    let _ = write!(trace_id, "{:032x}", line.trace_id);
    let record = Record {
        timestamp: begun.to_rfc3339_opts(SecondsFormat::Micros, true),
        service: "router-service",
        level: match line.status {
            500.. => "error",
            401 | 403 | 429 => "warn",
            _ => "info",
        },
        message: format!("{} {path} {}", method_label(&line.method), line.status),
        // A client may use a request id again; with the trace's it is this request's alone.
        id: format!("{trace_id}-{:016x}", line.span_id),
        trace_id,
        attributes: Attributes {
            audit: true,
            request_id,
            method: method_label(&line.method),
            path,
            route: line.served.name(),
            upstream: line.upstream(),
            instance: line.instance.as_ref().map(|instance| instance.authority.as_str()),
            status: line.status,
            duration_us: u64::try_from(line.duration.as_micros()).unwrap_or(u64::MAX),
            request_bytes: line.request_bytes,
            response_bytes: line.response_bytes,
            complete: line.complete,
            address: line.address.to_string(),
            subject: line.subject.as_ref().map(|claims| claims.sub.as_str()),
            client_id: line.subject.as_ref().map(|claims| claims.client_id.as_str()),
        },
    };
    serde_json::to_vec(&record).unwrap_or_default()
}
