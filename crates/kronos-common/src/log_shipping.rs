//! A service's own log lines on their way to log-service, as OTLP logs (JSON encoding). The buffer is bounded, never
//! blocks, holds what log-service cannot take for now, and counts what it drops.

use std::{fmt::Write as _, time::Duration};

use anyhow::Context as _;
use prometheus::IntCounter;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::json;
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    instrument::WithSubscriber as _,
    subscriber::NoSubscriber,
};
use tracing_subscriber::{Layer, layer::Context};

use crate::{identity::ServiceToken, telemetry, trace};

/// Lines held while log-service is away.
const BUFFERED_LINES: usize = 8_192;
/// Lines in one request.
const BATCH_LINES: usize = 512;
/// Longest wait for a batch to fill.
const BATCH_WAIT: Duration = Duration::from_millis(500);
/// Longest field value, in bytes.
const MAX_VALUE_BYTES: usize = 8_192;

/// A log record as OTLP/JSON has it. Held as text: a tree of values takes twenty times as much.
type Line = Box<[u8]>;

/// Collects lines; a part of the process's `tracing` pipeline.
#[derive(Debug)]
pub struct ShippingLayer {
    lines: mpsc::Sender<Line>,
    dropped: IntCounter,
}

/// The other end of [`ShippingLayer`].
#[derive(Debug)]
pub struct Receiver {
    service: &'static str,
    lines: mpsc::Receiver<Line>,
    dropped: IntCounter,
}

/// Both ends. The counter of dropped lines is in the process-wide metric registry.
///
/// # Errors
/// Called twice in one process.
pub fn channel(service: &'static str) -> anyhow::Result<(ShippingLayer, Receiver)> {
    let dropped =
        IntCounter::new(telemetry::LOG_LINES_DROPPED, "Log lines dropped because the shipping buffer was full")
            .context("make the counter of dropped lines")?;
    prometheus::default_registry()
        .register(Box::new(dropped.clone()))
        .context("register the counter of dropped lines")?;
    let (sender, receiver) = mpsc::channel(BUFFERED_LINES);
    Ok((ShippingLayer { lines: sender, dropped: dropped.clone() }, Receiver { service, lines: receiver, dropped }))
}

impl<S: Subscriber> Layer<S> for ShippingLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Ok(slot) = self.lines.try_reserve() else {
            self.dropped.inc();
            return;
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        match fields.into_line(*event.metadata().level(), event.metadata().target()) {
            Some(line) => slot.send(line),
            None => self.dropped.inc(),
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    attributes: Vec<Attribute>,
}

#[derive(Serialize)]
struct Attribute {
    key: &'static str,
    value: AnyValue,
}

/// The OTLP message `AnyValue`, as far as log lines need it; integers are text in its JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::enum_variant_names, reason = "the names of the wire")]
enum AnyValue {
    StringValue(String),
    IntValue(String),
    DoubleValue(f64),
    BoolValue(bool),
}

/// The OTLP message `LogRecord`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    time_unix_nano: String,
    observed_time_unix_nano: String,
    severity_number: u8,
    severity_text: &'static str,
    body: AnyValue,
    attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
}

impl Fields {
    fn push(&mut self, key: &'static str, value: AnyValue) {
        self.attributes.push(Attribute { key, value });
    }

    fn into_line(mut self, level: Level, target: &str) -> Option<Line> {
        self.push("target", AnyValue::StringValue(target.to_owned()));
        // A batch whose answer was lost is sent again: by its own id a record is kept once.
        self.push("log.record.uid", AnyValue::StringValue(uuid::Uuid::now_v7().to_string()));
        // OpenTelemetry logs data model, severity numbers.
        let (severity_number, severity_text) = match level {
            Level::TRACE => (1, "trace"),
            Level::DEBUG => (5, "debug"),
            Level::INFO => (9, "info"),
            Level::WARN => (13, "warn"),
            Level::ERROR => (17, "error"),
        };
        let now = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default().to_string();
        let context = trace::current();
        let record = Record {
            time_unix_nano: now.clone(),
            observed_time_unix_nano: now,
            severity_number,
            severity_text,
            body: AnyValue::StringValue(self.message),
            attributes: self.attributes,
            trace_id: context.as_ref().map(|context| context.trace_id_text()),
            span_id: context.as_ref().map(|context| format!("{:016x}", context.span_id)),
        };
        serde_json::to_vec(&record).ok().map(Vec::into_boxed_slice)
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field.name(), AnyValue::IntValue(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field.name(), AnyValue::IntValue(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field.name(), AnyValue::DoubleValue(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field.name(), AnyValue::BoolValue(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let value = value[..value.floor_char_boundary(MAX_VALUE_BYTES)].to_owned();
        if field.name() == "message" {
            self.message = value;
        } else {
            self.push(field.name(), AnyValue::StringValue(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        // Writing into a string fails only if the value's own Debug does.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}

impl Receiver {
    /// Ships until `shutdown`, then what is left, once. A batch that log-service does not take is tried again until it
    /// does; meanwhile the buffer fills, and what comes then is dropped and counted.
    pub async fn ship(self, endpoint: String, token: ServiceToken, shutdown: CancellationToken) {
        // Lines of the HTTP client about these very requests must not become lines again.
        self.run(endpoint, token, shutdown).with_subscriber(NoSubscriber::default()).await;
    }

    async fn run(mut self, endpoint: String, token: ServiceToken, shutdown: CancellationToken) {
        let url = format!("{}/v1/logs", endpoint.trim_end_matches('/'));
        let Ok(http) = reqwest::Client::builder().timeout(Duration::from_secs(10)).build() else {
            return;
        };
        let mut batch = Vec::with_capacity(BATCH_LINES);
        loop {
            let open = tokio::select! {
                open = self.fill(&mut batch) => open,
                () = shutdown.cancelled() => false,
            };
            let mut wait = Duration::from_millis(250);
            while !batch.is_empty() {
                match send(&http, &url, &token, self.service, &batch).await {
                    Ok(()) => batch.clear(),
                    Err(error) if is_refusal(&error) => {
                        self.dropped.inc_by(batch.len() as u64);
                        batch.clear();
                    }
                    Err(_) if shutdown.is_cancelled() => return,
                    Err(_) => {
                        tokio::select! { () = time::sleep(wait) => {}, () = shutdown.cancelled() => {} }
                        wait = (wait * 2).min(Duration::from_secs(5));
                    }
                }
            }
            if !open {
                while let Ok(line) = self.lines.try_recv() {
                    batch.push(line);
                }
                // The last try: the process is about to end, and standard output has these lines too.
                for lines in batch.chunks(BATCH_LINES) {
                    if send(&http, &url, &token, self.service, lines).await.is_err() {
                        return;
                    }
                }
                return;
            }
        }
    }

    /// Waits for a first line, then shortly for more; false once no line can come any more.
    async fn fill(&mut self, batch: &mut Vec<Line>) -> bool {
        if self.lines.recv_many(batch, BATCH_LINES).await == 0 {
            return false;
        }
        let deadline = time::Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_LINES {
            let room = BATCH_LINES - batch.len();
            match time::timeout_at(deadline, self.lines.recv_many(batch, room)).await {
                Ok(0) => return false,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        true
    }
}

/// Whether the same batch would be refused for ever.
fn is_refusal(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<reqwest::Error>().and_then(reqwest::Error::status);
    status.is_some_and(|status| matches!(status.as_u16(), 400 | 413 | 415 | 422))
}

async fn send(
    http: &reqwest::Client,
    url: &str,
    token: &ServiceToken,
    service: &str,
    lines: &[Line],
) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let service = json!([{ "key": "service.name", "value": { "stringValue": service } }]);
    let mut body = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":{service}}},"scopeLogs":[{{"scope":{{"name":"kronos"}},"logRecords":["#
    )
    .into_bytes();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(line);
    }
    body.extend_from_slice(b"]}]}]}");
    let token = token.get().await.context("get a token")?;
    http.post(url)
        .bearer_auth(token.as_ref())
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}
