//! The request log: one JSON line per request on standard output. A core collects its lines and hands them over in batches to
//! one task that writes them, so that no request waits for its line; what the task can't keep up with is dropped and counted.
//! No address, token, path or query is written down.

use std::{
    io::Write as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{SecondsFormat, Utc};
use http::{HeaderValue, Method, uri::PathAndQuery};
use kronos_common::{identity::Claims, request_lines::RequestLines};
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tracing::Level;

use crate::{
    audit::Audit,
    exchange::Served,
    instance::Instance,
    telemetry::{Metrics, method_label},
};

/// Lines that a core collects before it hands them over.
pub const BATCH: usize = 128;
/// Batches that wait for the writer.
const BATCHES: usize = 256;
const TARGET: &str = "router_service::request";

/// What is said of one request.
#[derive(Debug)]
pub struct Line {
    pub begun: Instant,
    pub method: Method,
    pub served: Served,
    /// The upstream, where it is not the route's own.
    pub canary: Option<Arc<str>>,
    pub status: u16,
    pub duration: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub trace_id: u128,
    pub request_id: HeaderValue,
    pub subject: Option<Arc<Claims>>,
    /// The answer's last byte was sent.
    pub complete: bool,
    /// Somebody else writes the line: only the audit trail wants it.
    pub unlogged: bool,
    pub span_id: u64,
    pub address: IpAddr,
    /// For the audit trail alone.
    pub target: Option<PathAndQuery>,
    pub instance: Option<Arc<Instance>>,
}

/// Where batches go.
#[derive(Debug, Clone)]
pub struct RequestLog {
    batches: mpsc::Sender<Vec<Line>>,
    dropped: IntCounter,
}

impl RequestLog {
    /// Starts the writer, which ends with the last sender. `shipped`: lines travel to log-service too, as this process's other
    /// lines do, and only those that it says.
    pub fn start(metrics: &Metrics, shipped: Option<RequestLines>, audit: Option<Audit>) -> Self {
        let (batches, mut queue) = mpsc::channel::<Vec<Line>>(BATCHES);
        tokio::spawn(async move {
            let mut text = Vec::with_capacity(BATCH * 512);
            while let Some(mut batch) = queue.recv().await {
                if let Some(audit) = &audit {
                    audit.write(&batch);
                    batch.retain(|line| !line.unlogged);
                }
                if !tracing::enabled!(target: TARGET, Level::INFO) {
                    continue;
                }
                if let Some(lines) = &shipped {
                    for line in &batch {
                        if let Some(unwritten) = lines.admit(line.status, line.duration) {
                            line.trace(unwritten);
                        }
                    }
                    continue;
                }
                let now = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
                text.clear();
                batch.iter().for_each(|line| line.write(&mut text, &now));
                // Nobody is left to tell if standard output is closed.
                let _ = std::io::stdout().lock().write_all(&text);
            }
        });
        Self { batches, dropped: metrics.lines_dropped.clone() }
    }

    pub fn write(&self, batch: Vec<Line>) {
        if let Err(mpsc::error::TrySendError::Full(batch) | mpsc::error::TrySendError::Closed(batch)) =
            self.batches.try_send(batch)
        {
            self.dropped.inc_by(batch.len() as u64);
        }
    }
}

impl Line {
    /// The upstream that its route leads to.
    pub fn upstream(&self) -> Option<&str> {
        match &self.served {
            Served::Route(route) => self.canary.as_deref().or(route.upstream.as_ref().map(|upstream| &*upstream.name)),
            Served::Unmatched | Served::Own => None,
        }
    }

    /// Through the process's log pipeline.
    fn trace(&self, unwritten: u64) {
        tracing::info!(
            target: TARGET,
            method = method_label(&self.method),
            route = self.served.name(),
            status = self.status,
            duration_us = u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX),
            request_bytes = self.request_bytes,
            response_bytes = self.response_bytes,
            trace_id = format_args!("{:032x}", self.trace_id),
            request_id = self.request_id.to_str().unwrap_or_default(),
            subject = self.subject.as_ref().map(|claims| claims.sub.as_str()),
            client_id = self.subject.as_ref().map(|claims| claims.client_id.as_str()),
            upstream = self.upstream(),
            complete = self.complete,
            unwritten = (unwritten > 0).then_some(unwritten),
            "request"
        );
    }

    /// The same line by hand: at tens of thousands of requests per second the pipeline's way would cost as much as the
    /// requests.
    fn write(&self, out: &mut Vec<u8>, now: &str) {
        let mut number = itoa::Buffer::new();
        let mut hex = [0; 32];
        out.extend_from_slice(b"{\"timestamp\":\"");
        out.extend_from_slice(now.as_bytes());
        out.extend_from_slice(b"\",\"level\":\"INFO\",\"message\":\"request\",\"method\":\"");
        out.extend_from_slice(method_label(&self.method).as_bytes());
        // Names of routes and upstreams, and request ids, have no character that JSON escapes.
        out.extend_from_slice(b"\",\"route\":\"");
        out.extend_from_slice(self.served.name().as_bytes());
        out.extend_from_slice(b"\",\"status\":");
        out.extend_from_slice(number.format(self.status).as_bytes());
        out.extend_from_slice(b",\"duration_us\":");
        out.extend_from_slice(number.format(u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX)).as_bytes());
        out.extend_from_slice(b",\"request_bytes\":");
        out.extend_from_slice(number.format(self.request_bytes).as_bytes());
        out.extend_from_slice(b",\"response_bytes\":");
        out.extend_from_slice(number.format(self.response_bytes).as_bytes());
        out.extend_from_slice(b",\"trace_id\":\"");
        write_hex(&mut hex, self.trace_id);
        out.extend_from_slice(&hex);
        out.extend_from_slice(b"\",\"request_id\":\"");
        out.extend_from_slice(self.request_id.as_bytes());
        out.push(b'"');
        if let Some(claims) = &self.subject {
            for (name, text) in [("subject", &claims.sub), ("client_id", &claims.client_id)] {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":");
                // Writing text to memory can't fail.
                let _ = serde_json::to_writer(&mut *out, text);
            }
        }
        if let Some(upstream) = self.upstream() {
            out.extend_from_slice(b",\"upstream\":\"");
            out.extend_from_slice(upstream.as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(if self.complete { b",\"complete\":true" } else { b",\"complete\":false" });
        out.extend_from_slice(b",\"target\":\"");
        out.extend_from_slice(TARGET.as_bytes());
        out.extend_from_slice(b"\"}\n");
    }
}

/// Lower case digits of `number`, as many as fit from the right.
pub fn write_hex(out: &mut [u8], mut number: u128) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}
