//! Sends an admitted request to an instance, a second time to another if that is safe and affordable, and passes the answer
//! on as it comes. Upgrades become tunnels.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use hyper::{body::Body as _, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use kronos_common::problem::Problem;
use tokio::net::TcpStream;

use crate::{
    balance::{self, Instance},
    body::{RequestBody, ResponseBody, Source, Trouble},
    clock,
    exchange::Exchange,
    headers::{self, Origin, Outgoing},
    proxy::{Arrived, Core, finish, refuse_with, too_large},
    table::Route,
    tunnel,
    upstream::{Content, Failure, Reply},
};

/// How an attempt ended without an answer.
enum Ended {
    Failed(Failure),
    /// The instance took longer than the route's timeout.
    TimedOut,
    /// The client stopped sending its body.
    ClientPaused,
}

pub async fn forward(core: &Rc<Core>, route: &Route, arrived: Arrived) -> Response<ResponseBody> {
    let Arrived { mut parts, body, connection, origin, host, keeps_trace, mut exchange, limits, ahead, .. } = arrived;
    let has_body = !body.is_end_stream() || ahead.as_ref().is_some_and(|ahead| !ahead.frames.is_empty());
    let source = has_body.then(|| {
        let ahead = ahead.map(|ahead| *ahead);
        Arc::new(Source::new(body, ahead, route.body_limit, Arc::clone(&connection)))
    });
    exchange.source.clone_from(&source);
    if let Some(rules) = route.edge.as_ref().and_then(|edge| edge.request_headers.as_ref()) {
        rules.apply_to_request(&mut parts.headers);
    }
    let upgrade = headers::wanted_upgrade(parts.version, &parts.headers).filter(|_| parts.method == Method::GET);
    let client_side = upgrade.as_ref().and_then(|_| parts.extensions.remove::<OnUpgrade>());
    let target = route.spec.rewrite.as_ref().map(|rewrite| {
        let path = rewrite.apply(&route.spec.matches.path, parts.uri.path());
        parts.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
    });
    let prepared = Prepared { parts, target, source, upgrade, origin, host, keeps_trace };
    match attempts(core, route, &prepared, &mut exchange).await {
        Ok(Reply { status, mut headers, content: Content::Body(body) }) => {
            finish(&mut headers, &mut exchange, status, limits.as_ref());
            let is_events = headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
            let drain = is_events.then(|| core.gateway.shutdown.clone().cancelled_owned());
            let mut response = Response::new(ResponseBody::instance(body, exchange, drain));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
        }
        Ok(Reply { headers, content: Content::Tunnel { protocol, stream, first }, .. }) => match client_side {
            Some(client_side) => {
                connection.upgraded();
                change_over(core, client_side, headers, protocol, (stream, first), exchange)
            }
            None => {
                let problem = failed("upstream_failed", StatusCode::BAD_GATEWAY, "the instance changed the protocol");
                refuse_with(exchange, limits.as_ref(), problem, prepared.is_unread())
            }
        },
        Err(problem) => refuse_with(exchange, limits.as_ref(), problem, prepared.is_unread()),
    }
}

/// A request as it goes to an instance, but for the instance.
struct Prepared {
    parts: Parts,
    /// Path and query, where the route rewrites them.
    target: Option<String>,
    source: Option<Arc<Source>>,
    upgrade: Option<HeaderValue>,
    origin: Origin,
    host: Option<HeaderValue>,
    keeps_trace: bool,
}

impl Prepared {
    fn is_unread(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.finished().is_none())
    }

    fn write(&self, exchange: &Exchange, instance: &Instance, out: &mut Vec<u8>) {
        let outgoing = Outgoing {
            method: &self.parts.method,
            target: self
                .target
                .as_deref()
                .unwrap_or_else(|| self.parts.uri.path_and_query().map_or("/", |target| target.as_str())),
            headers: &self.parts.headers,
            upgrade: self.upgrade.as_ref(),
            origin: &self.origin,
            host: self.host.as_ref(),
            request_id: &exchange.request_id,
            trace: &exchange.trace,
            keeps_trace: self.keeps_trace,
            subject: exchange.subject.as_deref(),
            way: exchange.way,
        };
        outgoing.write(out, instance.authority.as_str());
    }

    fn is_whole(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_whole())
    }

    fn is_idempotent(&self) -> bool {
        matches!(self.parts.method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS)
    }
}

/// One attempt, and perhaps a second one.
async fn attempts(core: &Core, route: &Route, prepared: &Prepared, exchange: &mut Exchange) -> Result<Reply, Problem> {
    let upstream = &route.upstream;
    let mut first: Option<Arc<Instance>> = None;
    upstream.budget.deposit(core.gateway.config.balance.retry_percent);
    loop {
        let begun = if first.is_none() { exchange.begun } else { Instant::now() };
        let now = core.us_of(begun);
        let random = |below: u32| rand::random_range(0..below.max(1));
        let picked = balance::pick(&upstream.members, first.as_deref(), now, &core.rules, random);
        // A connection that was closed as we used it deserves a new one, even to the only instance.
        let Some(instance) = picked.or_else(|| first.as_ref().filter(|_| !upstream.members.is_empty())).cloned() else {
            return Err(all_away());
        };
        exchange.in_flight = Some(instance.enter());
        if core.gateway.audits {
            exchange.instance = Some(Arc::clone(&instance));
        }
        let failure = match attempt(core, route, prepared, exchange, &instance, clock::ms_of(begun)).await {
            Ok(response) => {
                let answered = core.now_us();
                // What a load balancer or a draining instance says; a plain 500 is the application's own business.
                if matches!(response.status.as_u16(), 502..=504) {
                    note_failure(core, route, &instance, "status");
                } else {
                    instance.succeeded(answered, answered.saturating_sub(now));
                }
                return Ok(response);
            }
            Err(ended) => ended,
        };
        exchange.in_flight = None;
        let trouble = prepared.source.as_ref().and_then(|source| source.trouble());
        let (failure, unsent) = match (trouble, failure) {
            (Some(Trouble::TooLarge), _) => return Err(too_large(route.body_limit)),
            (Some(Trouble::Client), _) => {
                return Err(Problem::bad_request("incomplete_body", "the body ended before it was complete"));
            }
            (None, Ended::ClientPaused) => {
                let detail = "the body did not come in time";
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail));
            }
            (None, Ended::TimedOut) => {
                note_failure(core, route, &instance, "timeout");
                let detail = "the service did not answer in time";
                return Err(failed("upstream_timeout", StatusCode::GATEWAY_TIMEOUT, detail));
            }
            (None, Ended::Failed(Failure::NeverSent(error))) => (error, true),
            (None, Ended::Failed(Failure::Broken(error))) => (error, false),
        };
        note_failure(core, route, &instance, if unsent { "connect" } else { "broken" });
        tracing::debug!(upstream = &*upstream.name, error = format!("{failure:#}"), "attempt failed");
        let safe = prepared.is_whole() && (unsent || (prepared.is_idempotent() && prepared.upgrade.is_none()));
        // To connect again to the one instance that refused is no second chance.
        let elsewhere = upstream.members.len() > 1 || !unsent;
        if first.is_none() && safe && elsewhere && upstream.budget.withdraw() {
            core.gateway.metrics.retries.with_label_values(&[&*upstream.name]).inc();
            first = Some(instance);
            continue;
        }
        return Err(if unsent {
            all_away()
        } else {
            failed("upstream_failed", StatusCode::BAD_GATEWAY, "the service broke off before it answered")
        });
    }
}

fn note_failure(core: &Core, route: &Route, instance: &Instance, kind: &str) {
    let (metrics, name) = (&core.gateway.metrics, &*route.upstream.name);
    metrics.upstream_failures.with_label_values(&[name, kind]).inc();
    if instance.failed(core.now_us(), &core.rules) {
        metrics.ejections.with_label_values(&[name]).inc();
        tracing::warn!(upstream = name, instance = instance.authority.as_str(), "instance is left out for a while");
    }
}

/// Sends once and waits: for as long as the body makes progress, and then for the route's timeout.
async fn attempt(
    core: &Core,
    route: &Route,
    prepared: &Prepared,
    exchange: &Exchange,
    instance: &Arc<Instance>,
    begun: u64,
) -> Result<Reply, Ended> {
    let body = prepared.source.as_ref().map(RequestBody::new);
    let write = |out: &mut Vec<u8>| prepared.write(exchange, instance, out);
    let mut sending = pin!(core.forwarder.send(instance, &prepared.parts.method, write, body));
    let body_idle = core.deadlines.body_idle;
    let timeout = millis(route.timeout);
    let mut alarm = core.alarms.alarm();
    alarm.set(begun + prepared.source.as_ref().map_or(timeout, |_| timeout.min(body_idle)));
    let (mut received, mut progress) = (0, begun);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(sent.map_err(Ended::Failed));
            }
            ready!(alarm.poll(cx));
            // It rings late, but never early.
            let Some(source) = &prepared.source else { return Poll::Ready(Err(Ended::TimedOut)) };
            let now = clock::exact_ms();
            let since = match source.finished() {
                Some(finished) => finished.max(begun),
                None => {
                    if source.received() > received {
                        (received, progress) = (source.received(), now);
                    }
                    progress
                }
            };
            let blocked = if source.finished().is_none() { millis(source.blocked_for()) } else { 0 };
            if blocked >= body_idle {
                return Poll::Ready(Err(Ended::ClientPaused));
            }
            let deadline = since + timeout;
            if now >= deadline && blocked == 0 {
                return Poll::Ready(Err(Ended::TimedOut));
            }
            let next = if blocked > 0 { now + (body_idle - blocked) } else { deadline };
            alarm.set(next.max(now + 1));
        }
    })
    .await
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Passes the answer to an upgrade on, and then bytes both ways until one side ends or the gateway does.
fn change_over(
    core: &Rc<Core>,
    client_side: OnUpgrade,
    mut headers: HeaderMap,
    protocol: Option<HeaderValue>,
    (instance, first): (TcpStream, BytesMut),
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    finish(&mut headers, &mut exchange, StatusCode::SWITCHING_PROTOCOLS, None);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
    }
    let shutdown = core.gateway.shutdown.clone();
    core.tasks.spawn_local(async move {
        let Ok(client) = client_side.await else { return };
        if let Some(sent) = tunnel::run(TokioIo::new(client), instance, first, shutdown).await {
            exchange.sent(sent);
            exchange.complete();
        }
    });
    let mut response = Response::new(ResponseBody::none());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

fn all_away() -> Problem {
    failed("upstream_unavailable", StatusCode::SERVICE_UNAVAILABLE, "the service can't be reached now: try again")
        .with_retry_after(Duration::from_secs(1))
}

fn failed(code: &'static str, status: StatusCode, detail: &'static str) -> Problem {
    Problem::new(status, code, detail)
}
