//! What happens to a request: `admission`, then the gateway's own endpoints or `forward`; and how every answer is dressed.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::response::IntoResponse as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::{Body as _, Incoming};
use kronos_common::{
    identity::Verifier,
    leftover,
    problem::Problem,
    telemetry,
    trace::{self, TraceContext},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Span;

use crate::{
    admission::{Admitted, admit, asked},
    alarm::Alarms,
    asynchronous::Passing,
    body::{RequestBody, ResponseBody, Source},
    cache::keep::Kept,
    config::Config,
    connection::{Connection, Deadlines},
    edge::{networks, security_headers::SecurityHeaders},
    exchange::{Exchange, Served},
    forward, headers,
    inspect::Ahead,
    limit::{Decision, Limiter, Rule},
    live::Live,
    node_keys::NodeKeys,
    opening::Places,
    origin::{self, Origin},
    quota::Quotas,
    request_log::{BATCH, Line, RequestLog},
    routes::docs::Documents,
    signature::ContentDigest,
    table::{CompiledLimit, Lookup},
    telemetry::{Metrics, RouteSeconds, method_label},
    tls::Tls,
    tokens::Tokens,
    upstream::Forwarder,
};

/// Headers that browsers of other origins, and callers, learn a limit from.
const RATE_LIMIT: http::HeaderName = http::HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: http::HeaderName = http::HeaderName::from_static("ratelimit-policy");

/// What all cores share.
#[derive(Clone)]
pub struct Gateway {
    pub config: Arc<Config>,
    pub live: Arc<Live>,
    pub verifier: Verifier,
    pub limiter: Arc<Limiter>,
    /// Answers of routes that keep them.
    pub kept: Arc<Kept>,
    pub default_limit: Option<Arc<CompiledLimit>>,
    /// Who may come at all.
    pub networks: Option<Arc<networks::Compiled>>,
    pub node_keys: Arc<NodeKeys>,
    pub tls: Option<Arc<Tls>>,
    /// To whom requests are given that are passed on later.
    pub passing: Passing,
    pub places: Places,
    pub metrics: Metrics,
    pub log: RequestLog,
    /// There is an audit trail.
    pub audits: bool,
    pub quotas: Arc<Quotas>,
    /// The gateway's own endpoints, which run on the main runtime, where their database connections live.
    pub own: axum::Router,
    pub documents: Arc<Documents>,
    pub main: tokio::runtime::Handle,
    pub shutdown: CancellationToken,
    pub epoch: Instant,
    pub unmatched: Arc<RouteSeconds>,
    pub own_seconds: Arc<RouteSeconds>,
    /// Whom `https://` instances are believed.
    pub trust: Arc<rustls::ClientConfig>,
    /// Spans are exported.
    pub traces: bool,
}

/// What one core has for itself.
pub struct Core {
    pub gateway: Gateway,
    pub forwarder: Forwarder,
    pub deadlines: Deadlines,
    /// Waits for instances.
    pub alarms: Rc<Alarms>,
    /// Deadlines of connections.
    pub connection_alarms: Rc<Alarms>,
    /// Connections and tunnels of this core.
    pub tasks: TaskTracker,
    /// Copies under way.
    pub mirrors: TaskTracker,
    /// Nothing new is begun on a connection.
    pub is_draining: Cell<bool>,
    pub tokens: RefCell<Tokens>,
    lines: RefCell<Vec<Line>>,
}

impl Core {
    pub fn new(gateway: Gateway) -> Self {
        Self {
            forwarder: Forwarder::new(&gateway.config.balance, Arc::clone(&gateway.trust)),
            deadlines: Deadlines::from(&gateway.config.gateway),
            alarms: Alarms::new(Duration::from_millis(10)),
            connection_alarms: Alarms::new(Duration::from_millis(50)),
            tasks: TaskTracker::new(),
            mirrors: TaskTracker::new(),
            is_draining: Cell::new(false),
            tokens: RefCell::default(),
            lines: RefCell::default(),
            gateway,
        }
    }

    /// Microseconds on the clock that all cores share.
    pub fn now_us(&self) -> u64 {
        self.us_of(Instant::now())
    }

    /// A moment on that clock.
    pub fn us_of(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.gateway.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Writes a line of the request log, in a while.
    pub fn log(&self, line: Line) {
        let mut lines = self.lines.borrow_mut();
        if lines.is_empty() {
            lines.reserve(BATCH);
            self.connection_alarms.nudge();
        }
        lines.push(line);
        if lines.len() >= BATCH {
            self.gateway.log.write(std::mem::take(&mut *lines));
        }
    }

    /// Hands over the lines that were collected.
    pub fn flush_log(&self) {
        let lines = self.lines.take();
        if !lines.is_empty() {
            self.gateway.log.write(lines);
        }
    }
}

/// A request on its way, with all that was found out about it.
pub struct Arrived {
    pub parts: Parts,
    pub body: Incoming,
    pub connection: Arc<Connection>,
    pub origin: Origin,
    pub host: Option<HeaderValue>,
    /// The caller's own trace was taken up.
    pub keeps_trace: bool,
    pub exchange: Box<Exchange>,
    /// What the limits say to the caller.
    pub limits: Option<(Arc<Rule>, Decision)>,
    /// What the body must hash to.
    pub digest: Option<Box<ContentDigest>>,
    /// What was read of the body already.
    pub ahead: Option<Box<Ahead>>,
}

/// Answers one request, whatever happens.
pub async fn handle(core: Rc<Core>, connection: Arc<Connection>, request: Request<Incoming>) -> Response<ResponseBody> {
    let begun = Instant::now();
    let active = connection.enter();
    let (parts, body) = request.into_parts();
    let gateway = &core.gateway;
    let parent = parent(&parts.headers);
    let ratio = gateway.config.telemetry.trace_sample_ratio;
    let wanted = gateway.traces && parent.map_or(ratio > 0.0, |parent| parent.sampled);
    let (span, context) = if wanted {
        let span = span(gateway, &parts);
        let context = telemetry::adopt(&span, parent);
        (span, context)
    } else {
        (Span::none(), parent.map_or_else(|| TraceContext::random(false), TraceContext::child))
    };
    let edge = &gateway.config.gateway;
    let origin = origin::origin(&connection, &parts.headers, &edge.trusted_proxies, edge.trusted_header);
    let mut exchange = Box::new(Exchange::begin(
        Rc::clone(&core),
        begun,
        parts.method.clone(),
        (span, context),
        headers::request_id(&parts.headers),
        &origin,
        active,
    ));
    if gateway.audits {
        exchange.target = parts.uri.path_and_query().cloned();
    }
    let keeps_trace = parent.is_some();
    let (host, limits, digest, ahead) = (None, None, None, None);
    let arrived = Arrived { parts, body, connection, origin, host, keeps_trace, exchange, limits, digest, ahead };
    trace::scope(context, answer(&core, arrived)).await
}

/// A span's name is fixed when it begins, so the route is looked up once more for those that are exported.
fn span(gateway: &Gateway, parts: &Parts) -> Span {
    let host = parts.headers.get(header::HOST);
    let served = match gateway.live.table().find(parts.uri.path(), &parts.method, &asked(parts, host)) {
        Lookup::Route(route) => Served::Route(route),
        Lookup::OtherMethods(_) | Lookup::Nothing => Served::Unmatched,
    };
    tracing::info_span!(
        "gateway",
        otel.name = format!("{} {}", method_label(&parts.method), served.name()),
        otel.kind = "server",
        http.request.method = method_label(&parts.method),
        http.route = tracing::field::Empty,
        http.response.status_code = tracing::field::Empty,
    )
}

async fn answer(core: &Rc<Core>, mut arrived: Arrived) -> Response<ResponseBody> {
    let route = match admit(core, &mut arrived).await {
        Ok(Admitted::Route(route)) => route,
        Ok(Admitted::Own) => return own(core, arrived).await,
        Ok(Admitted::Answer(response)) => return answer_at_once(arrived, *response, false).await,
        Err(problem) => return refuse(arrived, problem).await,
    };
    forward::forward(core, &route, arrived).await
}

/// The gateway's own endpoints.
async fn own(core: &Core, arrived: Arrived) -> Response<ResponseBody> {
    let Arrived { mut parts, body, connection, mut exchange, limits, .. } = arrived;
    let gateway = core.gateway.clone();
    // Their own layer refuses what is too large; this bounds what is read of it only.
    let bound = (gateway.config.http.body_limit_bytes as u64).saturating_mul(4);
    let source = Arc::new(Source::new(body, None, bound, connection));
    let is_document = parts.uri.path() == "/openapi.json" && parts.method == http::Method::GET;
    if !is_document {
        // The endpoints' own layer writes the line.
        exchange.unlogged = true;
    }
    if let Ok(trace) = HeaderValue::try_from(exchange.trace.to_string()) {
        parts.headers.insert(trace::TRACEPARENT, trace);
    }
    exchange.source = Some(Arc::clone(&source));
    let context = exchange.trace;
    let answered = core.gateway.main.spawn(trace::scope(context, async move {
        if is_document {
            return gateway.documents.answer().await.unwrap_or_else(axum::response::IntoResponse::into_response);
        }
        let request = Request::from_parts(parts, axum::body::Body::new(RequestBody::new(&source)));
        tower::ServiceExt::oneshot(gateway.own, request).await.unwrap_or_else(|never| match never {})
    }));
    let response = match answered.await {
        Ok(response) => response,
        Err(error) => Problem::internal(error).into_response(),
    };
    finish_own(response, exchange, limits.as_ref())
}

/// An answer of the gateway itself.
async fn refuse(arrived: Arrived, problem: Problem) -> Response<ResponseBody> {
    let must_close = is_ambiguous(&problem);
    answer_at_once(arrived, problem.into_response(), must_close).await
}

/// What leaves open where the next request begins.
fn is_ambiguous(problem: &Problem) -> bool {
    matches!(problem.code(), "ambiguous_length" | "invalid_head" | "invalid_host")
}

/// Answers without an instance.
async fn answer_at_once(
    arrived: Arrived,
    response: axum::response::Response,
    must_close: bool,
) -> Response<ResponseBody> {
    let Arrived { parts, body, exchange, limits, .. } = arrived;
    let unread = !body.is_end_stream();
    // Who is still sending would find the connection reset, and not hear why. But nothing is read of what may be two
    // requests, and nobody is asked to send what is refused.
    let may_read = response.status() != StatusCode::BAD_REQUEST && !parts.headers.contains_key(header::EXPECT);
    if unread && may_read {
        leftover::discard(body).await;
    }
    close_if(unread || must_close, response, exchange, limits.as_ref())
}

/// As [`refuse`], when the body is elsewhere; `unread`: a part of it was not read, so that the connection can't go on.
pub fn refuse_with(
    exchange: Box<Exchange>,
    limits: Option<&(Arc<Rule>, Decision)>,
    problem: Problem,
    unread: bool,
) -> Response<ResponseBody> {
    let close = unread || is_ambiguous(&problem);
    close_if(close, problem.into_response(), exchange, limits)
}

fn close_if(
    close: bool,
    mut response: axum::response::Response,
    exchange: Box<Exchange>,
    limits: Option<&(Arc<Rule>, Decision)>,
) -> Response<ResponseBody> {
    if close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    finish_own(response, exchange, limits)
}

/// As the gateway's own answer.
pub fn finish_own(
    response: axum::response::Response,
    mut exchange: Box<Exchange>,
    limits: Option<&(Arc<Rule>, Decision)>,
) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    finish(&mut parts.headers, &mut exchange, parts.status, limits);
    if exchange.connection_is_http2() {
        parts.headers.remove(header::CONNECTION);
    }
    Response::from_parts(parts, ResponseBody::own(body, exchange))
}

/// The headers that every answer gets, and the record's end.
pub fn finish(
    headers: &mut HeaderMap,
    exchange: &mut Exchange,
    status: StatusCode,
    limits: Option<&(Arc<Rule>, Decision)>,
) {
    match exchange.edge() {
        None => SecurityHeaders::Default.apply(headers, exchange.is_https),
        Some(edge) => edge.dress(headers, exchange.origin.as_ref(), exchange.is_https),
    }
    headers.insert(headers::X_REQUEST_ID, exchange.request_id.clone());
    if exchange.ends_connection() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.status = status.as_u16();
    if !exchange.span.is_disabled() {
        exchange.span.record("http.route", exchange.served.name());
    }
    if let Some((rule, decision)) = limits {
        headers.insert(RATE_LIMIT_POLICY, rule.policy.clone());
        headers.insert(RATE_LIMIT, rule.state(decision));
    }
}

/// 413.
pub fn too_large(limit: u64) -> Problem {
    let detail = format!("the body is larger than this route takes, {limit} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// The caller's trace, if it is told once and well.
fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut sent = headers.get_all(trace::TRACEPARENT).iter();
    let (first, None) = (sent.next()?, sent.next()) else { return None };
    TraceContext::parse(first.to_str().ok()?)
}
