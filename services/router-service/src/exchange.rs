//! The record of one request, from its head to its answer's last byte; when it is dropped, the request is measured and
//! written to the request log.

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Instant};

use http::{HeaderValue, Method, uri::PathAndQuery};
use kronos_common::{identity::Claims, trace::TraceContext};
use tracing::Span;

use crate::{
    body::Source,
    concurrency::Seat,
    connection::Active,
    edge::Edge,
    instance::{InFlight, Instance},
    origin::Origin,
    proxy::Core,
    request_log::Line,
    table::Route,
    telemetry::RouteSeconds,
};

/// What a client that went away before its answer is counted as.
const CLIENT_GONE: u16 = 499;

/// What answers a request.
#[derive(Debug, Clone)]
pub enum Served {
    /// Nothing that is configured.
    Unmatched,
    /// The gateway's own endpoints.
    Own,
    Route(Arc<Route>),
}

impl Served {
    /// As a label.
    pub fn name(&self) -> &str {
        match self {
            Self::Unmatched => "unmatched",
            Self::Own => "gateway",
            Self::Route(route) => &route.name,
        }
    }
}

/// One request.
pub struct Exchange {
    core: Rc<Core>,
    pub begun: Instant,
    pub method: Method,
    pub served: Served,
    pub trace: TraceContext,
    pub span: Span,
    pub request_id: HeaderValue,
    pub subject: Option<Arc<Claims>>,
    pub address: IpAddr,
    /// For the audit trail, if there is one.
    pub target: Option<PathAndQuery>,
    pub instance: Option<Arc<Instance>>,
    /// How they showed it, where the route takes more than tokens.
    pub way: Option<&'static str>,
    /// The origin that a browser names, where the route says who may read its answers.
    pub origin: Option<HeaderValue>,
    pub is_https: bool,
    pub source: Option<Arc<Source>>,
    /// Zero until there is an answer.
    pub status: u16,
    /// Somebody else writes the line.
    pub unlogged: bool,
    pub in_flight: Option<InFlight>,
    /// Where the upstream bounds what is under way.
    pub seat: Option<Seat>,
    /// The upstream, where it is not the route's own.
    pub canary: Option<Arc<str>>,
    /// Keeps the connection's idle deadline away.
    pub active: Active,
    sent: u64,
    complete: bool,
    broken_off: bool,
}

impl Exchange {
    pub fn begin(
        core: Rc<Core>,
        begun: Instant,
        method: Method,
        (span, trace): (Span, TraceContext),
        request_id: HeaderValue,
        origin: &Origin,
        active: Active,
    ) -> Self {
        Self {
            core,
            begun,
            method,
            served: Served::Unmatched,
            trace,
            span,
            request_id,
            subject: None,
            address: origin.address,
            target: None,
            instance: None,
            way: None,
            origin: None,
            is_https: origin.is_https,
            source: None,
            status: 0,
            unlogged: false,
            in_flight: None,
            seat: None,
            canary: None,
            active,
            sent: 0,
            complete: false,
            broken_off: false,
        }
    }

    /// Whether the client speaks HTTP/2.
    pub fn connection_is_http2(&self) -> bool {
        self.active.is_http2()
    }

    /// Whether the client must go elsewhere with its next request.
    pub fn ends_connection(&self) -> bool {
        self.core.is_draining.get() && !self.active.is_http2()
    }

    /// The route's policies at the edge.
    pub fn edge(&self) -> Option<&Edge> {
        match &self.served {
            Served::Route(route) => route.edge.as_deref(),
            Served::Unmatched | Served::Own => None,
        }
    }

    /// Bytes of the answer's body went out.
    pub fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// There is nothing more to send.
    pub fn complete(&mut self) {
        self.complete = true;
        self.leave();
    }

    /// The upstream has nothing more to do with it.
    pub fn leave(&mut self) {
        self.in_flight = None;
        self.seat = None;
    }

    /// The instance broke its answer off.
    pub fn broke_off(&mut self) {
        self.broken_off = true;
    }

    fn seconds(&self) -> &RouteSeconds {
        match &self.served {
            Served::Unmatched => &self.core.gateway.unmatched,
            Served::Own => &self.core.gateway.own_seconds,
            Served::Route(route) => &route.seconds,
        }
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("served", &self.served).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let status = if self.status == 0 { CLIENT_GONE } else { self.status };
        let took = self.begun.elapsed();
        self.seconds().observe(&self.method, status, took);
        self.span.record("http.response.status_code", status);
        if !self.complete && !self.broken_off {
            self.active.given_up();
        }
        if self.source.as_ref().is_some_and(|source| source.finished().is_none()) {
            self.active.lost();
        }
        if !self.unlogged || self.core.gateway.audits {
            self.core.log(Line {
                begun: self.begun,
                method: self.method.clone(),
                served: self.served.clone(),
                canary: self.canary.take(),
                status,
                duration: took,
                request_bytes: self.source.as_ref().map_or(0, |source| source.received()),
                response_bytes: self.sent,
                trace_id: self.trace.trace_id,
                request_id: self.request_id.clone(),
                subject: self.subject.take(),
                complete: self.complete,
                unlogged: self.unlogged,
                span_id: self.trace.span_id,
                address: self.address,
                target: self.target.take(),
                instance: self.instance.take(),
            });
        }
    }
}
