//! What happens to a request: checks, own endpoints, route, limits, token; then `forward`. No database on this path, and
//! Redis only when a lease of tokens is spent.

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
    identity::{Claims, Verifier, permission_matches},
    leftover,
    problem::Problem,
    telemetry,
    trace::{self, TraceContext},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Span;

use crate::{
    alarm::Alarms,
    balance::Rules,
    body::{RequestBody, ResponseBody, Source},
    condition::Asked,
    config::Config,
    connection::{Connection, Deadlines},
    exchange::{Exchange, Served},
    forward,
    headers::{self, Origin},
    limit::{Bucket, Client, Decision, Limiter, Rule, counted},
    live::Live,
    request_log::{BATCH, Line, RequestLog},
    route::{OWN_PATHS, covers},
    routes::docs::Documents,
    sniff::Verdict,
    table::{CompiledLimit, Lookup, Route},
    telemetry::{Metrics, RouteSeconds, method_label},
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
    pub default_limit: Option<Arc<CompiledLimit>>,
    pub metrics: Metrics,
    pub log: RequestLog,
    /// The gateway's own endpoints, which run on the main runtime, where their database connections live.
    pub own: axum::Router,
    pub documents: Arc<Documents>,
    pub main: tokio::runtime::Handle,
    pub shutdown: CancellationToken,
    pub epoch: Instant,
    pub unmatched: Arc<RouteSeconds>,
    pub own_seconds: Arc<RouteSeconds>,
    /// Spans are exported.
    pub traces: bool,
}

/// What one core has for itself.
pub struct Core {
    pub gateway: Gateway,
    pub forwarder: Forwarder,
    pub rules: Rules,
    pub deadlines: Deadlines,
    /// Waits for instances.
    pub alarms: Rc<Alarms>,
    /// Deadlines of connections.
    pub connection_alarms: Rc<Alarms>,
    /// Connections and tunnels of this core.
    pub tasks: TaskTracker,
    /// Nothing new is begun on a connection.
    pub is_draining: Cell<bool>,
    tokens: RefCell<Tokens>,
    lines: RefCell<Vec<Line>>,
}

impl Core {
    pub fn new(gateway: Gateway) -> Self {
        let balance = &gateway.config.balance;
        let rules = Rules {
            failures: balance.ejection_failures,
            base_us: balance.ejection_base_ms * 1000,
            max_us: balance.ejection_max_ms * 1000,
            panic_percent: balance.panic_percent,
        };
        Self {
            forwarder: Forwarder::new(balance),
            rules,
            deadlines: Deadlines::from(&gateway.config.gateway),
            alarms: Alarms::new(Duration::from_millis(10)),
            connection_alarms: Alarms::new(Duration::from_millis(50)),
            tasks: TaskTracker::new(),
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
    let exchange = Box::new(Exchange::begin(
        Rc::clone(&core),
        begun,
        parts.method.clone(),
        span,
        context,
        headers::request_id(&parts.headers),
        active,
    ));
    let trusted = &gateway.config.gateway.trusted_proxies;
    let origin = headers::origin(connection.peer, &connection.peer_text, &parts.headers, trusted);
    let keeps_trace = parent.is_some();
    let arrived = Arrived { parts, body, connection, origin, host: None, keeps_trace, exchange, limits: None };
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
        Err(problem) => return refuse(arrived, problem).await,
    };
    forward::forward(core, &route, arrived).await
}

enum Admitted {
    Route(Arc<Route>),
    Own,
}

/// All that can be refused before the body is looked at.
async fn admit(core: &Core, arrived: &mut Arrived) -> Result<Admitted, Problem> {
    let gateway = &core.gateway;
    let limits = &gateway.config.gateway;
    check_head(arrived)?;
    let Parts { method, uri, version, headers, .. } = &arrived.parts;
    let host = headers::check(method, uri, *version, headers, limits.max_header_bytes, limits.max_headers)?;
    let path = headers::normal_path(uri.path())?;
    if let std::borrow::Cow::Owned(path) = path {
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let target = target.parse::<http::uri::PathAndQuery>();
        let target = target.map_err(|_| Problem::bad_request("invalid_path", "the path is not valid"))?;
        let mut uri = arrived.parts.uri.clone().into_parts();
        uri.path_and_query = Some(target);
        arrived.parts.uri = http::Uri::from_parts(uri).map_err(Problem::internal)?;
    }
    arrived.host = host;
    if let Some(limit) = &gateway.default_limit {
        limited(core, arrived, std::slice::from_ref(&**limit), &mut Vec::new(), false).await?;
    }
    let path = arrived.parts.uri.path();
    if OWN_PATHS.iter().any(|own| covers(own, path)) {
        arrived.exchange.served = Served::Own;
        return Ok(Admitted::Own);
    }
    let found = gateway.live.table().find(path, &arrived.parts.method, &asked(&arrived.parts, arrived.host.as_ref()));
    let route = match found {
        Lookup::Route(route) => route,
        Lookup::OtherMethods(methods) => {
            let detail = format!("{} is not possible on this path, see Allow", arrived.parts.method);
            let mut problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
            if let Ok(allow) = HeaderValue::try_from(methods.allow()) {
                problem = problem.with_header(header::ALLOW, allow);
            }
            return Err(problem);
        }
        Lookup::Nothing => return Err(Problem::not_found("path")),
    };
    arrived.exchange.served = Served::Route(Arc::clone(&route));
    let mut taken = Vec::new();
    limited(core, arrived, &route.early_limits, &mut taken, !route.late_limits.is_empty()).await?;
    authenticate(core, &route, arrived).await?;
    limited(core, arrived, &route.late_limits, &mut taken, false).await?;
    if arrived.body.size_hint().lower() > route.body_limit {
        return Err(too_large(route.body_limit));
    }
    Ok(Admitted::Route(route))
}

/// What routes look at beside path and method.
fn asked<'a>(parts: &'a Parts, host: Option<&'a HeaderValue>) -> Asked<'a> {
    let host = host.and_then(|host| host.to_str().ok());
    Asked { host, headers: &parts.headers, query: parts.uri.query() }
}

/// What hyper does not refuse by itself.
fn check_head(arrived: &Arrived) -> Result<(), Problem> {
    if arrived.connection.is_http2 {
        return Ok(());
    }
    let encoded = arrived.parts.headers.contains_key(header::TRANSFER_ENCODING);
    match arrived.connection.verdict() {
        Some(Verdict::Good) => Ok(()),
        Some(Verdict::BareLineFeed) => Err(Problem::bad_request("invalid_head", "end each line with CR LF")),
        Some(Verdict::TwoLengths) => {
            Err(Problem::bad_request("ambiguous_length", "send Content-Length or Transfer-Encoding, not both"))
        }
        // Sent before the answer to an earlier request with a body: nothing to see, so no risk is taken.
        None if encoded => {
            Err(Problem::bad_request("ambiguous_length", "a chunked request can't be sent ahead of an answer"))
        }
        None => Ok(()),
    }
}

async fn authenticate(core: &Core, route: &Route, arrived: &mut Arrived) -> Result<(), Problem> {
    if !route.takes_token {
        return Ok(());
    }
    let claims = match claims(core, &arrived.parts).await {
        Ok(claims) => claims,
        Err(problem) if problem.code() == "token_missing" && route.takes_anonymous => return Ok(()),
        Err(problem) => return Err(problem),
    };
    if let Some(permission) = &route.permission
        && !claims.permissions.iter().any(|granted| permission_matches(granted, permission))
    {
        return Err(Problem::forbidden(format!("this needs the permission {permission}")));
    }
    arrived.exchange.subject = Some(claims);
    Ok(())
}

async fn claims(core: &Core, parts: &Parts) -> Result<Arc<Claims>, Problem> {
    let verifier = &core.gateway.verifier;
    let bearer = bearer(&parts.headers);
    if let Some(token) = bearer
        && let Some(claims) = core.tokens.borrow_mut().get(token, verifier)
    {
        return Ok(Arc::clone(claims));
    }
    let generation = verifier.generation();
    let claims = verifier.authenticate(&parts.method, &parts.uri, &parts.headers).await?;
    if let Some(token) = bearer {
        core.tokens.borrow_mut().insert(token, Arc::clone(&claims), generation);
    }
    Ok(claims)
}

/// The token of a request that shows exactly one, in the usual spelling: a JWT, and no API key.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let token = value.to_str().ok()?.strip_prefix("Bearer ")?;
    memchr::memchr(b'.', token.as_bytes()).map(|_| token)
}

/// Takes a token of each limit, or of none; what was `taken` before goes back then too. `more`: others follow.
async fn limited(
    core: &Core,
    arrived: &mut Arrived,
    limits: &[CompiledLimit],
    taken: &mut Vec<Arc<Bucket>>,
    more: bool,
) -> Result<(), Problem> {
    let limiter = &core.gateway.limiter;
    for (index, limit) in limits.iter().enumerate() {
        let address = counted(arrived.origin.address);
        let claims = arrived.exchange.subject.as_deref();
        // Who shows no token is told apart by the address.
        let by_address = limit.by_address || (claims.is_none() && (limit.by_subject || limit.by_client));
        let client = Client {
            address: by_address.then_some(address),
            subject: claims.filter(|_| limit.by_subject).map(|claims| claims.sub.as_str()),
            client_id: claims.filter(|_| limit.by_client).map(|claims| claims.client_id.as_str()),
        };
        let bucket = limiter.bucket(&limit.rule, client);
        let decision = limiter.take(&bucket).await;
        let tighter = arrived.limits.as_ref().is_none_or(|(_, known)| decision.remaining < known.remaining);
        if tighter || !decision.allowed {
            arrived.limits = Some((Arc::clone(&limit.rule), decision));
        }
        if !decision.allowed {
            taken.iter().for_each(|bucket| Limiter::give_back(bucket));
            core.gateway.metrics.limited.with_label_values(&[arrived.exchange.served.name()]).inc();
            return Err(Problem::too_many(decision.wait));
        }
        if more || index + 1 < limits.len() {
            taken.push(bucket);
        }
    }
    Ok(())
}

/// The gateway's own endpoints.
async fn own(core: &Core, arrived: Arrived) -> Response<ResponseBody> {
    let Arrived { mut parts, body, connection, mut exchange, limits, .. } = arrived;
    let gateway = core.gateway.clone();
    // Their own layer refuses what is too large; this bounds what is read of it only.
    let bound = (gateway.config.http.body_limit_bytes as u64).saturating_mul(4);
    let source = Arc::new(Source::new(body, bound, connection));
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
    let Arrived { parts, body, exchange, limits, .. } = arrived;
    let unread = !body.is_end_stream();
    // Who is still sending would find the connection reset, and not hear why. But nothing is read of what may be two
    // requests, and nobody is asked to send what is refused.
    let may_read = problem.status() != StatusCode::BAD_REQUEST && !parts.headers.contains_key(header::EXPECT);
    if unread && may_read {
        leftover::discard(body).await;
    }
    refuse_with(exchange, limits.as_ref(), problem, unread)
}

/// As [`refuse`], when the body is elsewhere; `unread`: a part of it was not read, so that the connection can't go on.
pub fn refuse_with(
    exchange: Box<Exchange>,
    limits: Option<&(Arc<Rule>, Decision)>,
    problem: Problem,
    unread: bool,
) -> Response<ResponseBody> {
    let close = unread || matches!(problem.code(), "ambiguous_length" | "invalid_head" | "invalid_host");
    let mut response = problem.into_response();
    if close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    finish_own(response, exchange, limits)
}

fn finish_own(
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
    headers::secure(headers, &exchange.request_id);
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
