//! The record of one request, from its head to its answer's last byte; when it is dropped, the request is measured and
//! written to the request log.

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Method};
use kronos_common::{identity::Claims, trace::TraceContext};
use tracing::Span;

use crate::{
    balance::InFlight,
    body::Source,
    connection::Active,
    telemetry::{Line, RequestLog, RouteSeconds},
};

/// What a client that went away before its answer is counted as.
const CLIENT_GONE: u16 = 499;

/// One request.
#[derive(Debug)]
pub struct Exchange {
    pub begun: Instant,
    pub method: Method,
    pub route: Arc<str>,
    pub seconds: Arc<RouteSeconds>,
    pub trace: TraceContext,
    pub span: Span,
    pub request_id: HeaderValue,
    pub subject: Option<Arc<Claims>>,
    pub upstream: Option<Arc<str>>,
    pub source: Option<Arc<Source>>,
    /// Zero until there is an answer.
    pub status: u16,
    /// `None`: somebody else writes the line.
    pub log: Option<RequestLog>,
    pub in_flight: Option<InFlight>,
    /// Keeps the connection's idle deadline away.
    pub active: Active,
    sent: u64,
    complete: bool,
}

/// What is known of a request at once.
#[derive(Debug)]
pub struct Beginning {
    pub begun: Instant,
    pub method: Method,
    pub route: Arc<str>,
    pub seconds: Arc<RouteSeconds>,
    pub trace: TraceContext,
    pub span: Span,
    pub request_id: HeaderValue,
    pub log: RequestLog,
    pub active: Active,
}

impl Exchange {
    pub fn begin(beginning: Beginning) -> Self {
        let Beginning { begun, method, route, seconds, trace, span, request_id, log, active } = beginning;
        Self {
            begun,
            method,
            route,
            seconds,
            trace,
            span,
            request_id,
            subject: None,
            upstream: None,
            source: None,
            status: 0,
            log: Some(log),
            in_flight: None,
            active,
            sent: 0,
            complete: false,
        }
    }

    /// Whether the client speaks HTTP/2.
    pub fn connection_is_http2(&self) -> bool {
        self.active.is_http2()
    }

    /// Bytes of the answer's body went out.
    pub fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// There is nothing more to send.
    pub fn complete(&mut self) {
        self.complete = true;
        self.in_flight = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let status = if self.status == 0 { CLIENT_GONE } else { self.status };
        let took = self.begun.elapsed();
        self.seconds.observe(&self.method, status, took);
        self.span.record("http.response.status_code", status);
        if self.source.as_ref().is_some_and(|source| source.finished().is_none()) {
            self.active.lost();
        }
        if let Some(log) = &self.log {
            log.write(Line {
                method: self.method.clone(),
                route: Arc::clone(&self.route),
                status,
                duration: took,
                request_bytes: self.source.as_ref().map_or(0, |source| source.received()),
                response_bytes: self.sent,
                trace_id: self.trace.trace_id,
                request_id: self.request_id.clone(),
                subject: self.subject.take(),
                upstream: self.upstream.take(),
                complete: self.complete,
            });
        }
    }
}
