//! One request's way to an upstream: let in by its breaker and its bound, sent to an instance, sent to another if that is safe
//! and affordable, or to two of them if the first is slow and the route asks for that (`hedge`).

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use kronos_common::{identity::Claims, problem::Problem, trace::TraceContext};

use crate::{
    balance::Asked,
    body::{RequestBody, Source, Trouble},
    breaker::Pass,
    clock,
    concurrency::Seat,
    exchange::Exchange,
    headers::Outgoing,
    instance::{InFlight, Instance},
    origin::Origin,
    proxy::{Core, too_large},
    table::{Route, Upstream},
    upstream::{Failure, Reply},
};

/// How an attempt ended without an answer.
enum Ended {
    Failed(Failure),
    /// The instance took longer than the route's timeout.
    TimedOut,
    /// The client stopped sending its body.
    ClientPaused,
}

/// A request as it goes to an instance, but for the instance.
pub struct Prepared {
    pub parts: Parts,
    /// Path and query, where the route rewrites them.
    pub target: Option<String>,
    pub source: Option<Arc<Source>>,
    pub upgrade: Option<HeaderValue>,
    pub origin: Origin,
    pub host: Option<HeaderValue>,
    pub keeps_trace: bool,
    /// What consistent hashing goes by; zero where the upstream has none.
    pub hash: u64,
}

impl Prepared {
    pub fn is_unread(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.finished().is_none())
    }

    pub fn outgoing<'a>(
        &'a self,
        request_id: &'a HeaderValue,
        trace: &'a TraceContext,
        subject: Option<&'a Claims>,
        way: Option<&'static str>,
    ) -> Outgoing<'a> {
        Outgoing {
            method: &self.parts.method,
            target: self
                .target
                .as_deref()
                .unwrap_or_else(|| self.parts.uri.path_and_query().map_or("/", |target| target.as_str())),
            headers: &self.parts.headers,
            upgrade: self.upgrade.as_ref(),
            origin: &self.origin,
            host: self.host.as_ref(),
            request_id,
            trace,
            keeps_trace: self.keeps_trace,
            subject,
            way,
        }
    }

    fn is_grpc(&self) -> bool {
        let kind = self.parts.headers.get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    }

    fn is_whole(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_whole())
    }

    fn is_idempotent(&self) -> bool {
        matches!(self.parts.method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS)
            && self.upgrade.is_none()
    }
}

/// One attempt, and perhaps more.
///
/// # Errors
/// What the caller is told: 400, 408, 413, 502, 503, 504.
pub async fn attempts(
    core: &Core,
    route: &Route,
    upstream: &Upstream,
    prepared: &Prepared,
    exchange: &mut Exchange,
) -> Result<Reply, Problem> {
    let mut tried: Vec<Arc<Instance>> = Vec::new();
    let mut now = core.us_of(exchange.begun);
    let pass = admit(core, upstream, exchange, now)?;
    upstream.budget.deposit(core.gateway.config.balance.retry_percent);
    let mut instance = pick(upstream, prepared, &tried, now).ok_or_else(all_away)?;
    loop {
        let begun = if tried.is_empty() { clock::ms_of(exchange.begun) } else { clock::exact_ms() };
        let mut in_flight = instance.enter();
        let attempted = match route.hedge {
            Some(after) if prepared.source.is_none() && prepared.is_idempotent() && tried.is_empty() => {
                let hedged = Hedged { core, route, upstream, prepared, exchange, pass: pass.as_ref() };
                let won = Box::pin(hedged.race(instance, in_flight, begun, after)).await;
                (instance, in_flight) = (won.instance, won.in_flight);
                now = won.begun_us;
                won.ended
            }
            _ => attempt(core, route, upstream, prepared, exchange, &instance, begun).await,
        };
        let failure = match attempted {
            Ok(reply) => {
                note_answer(core, upstream, &instance, (pass.as_ref(), exchange.seat.as_ref()), reply.status, now);
                exchange.in_flight = Some(in_flight);
                if core.gateway.audits {
                    exchange.instance = Some(instance);
                }
                return Ok(reply);
            }
            Err(ended) => ended,
        };
        drop(in_flight);
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
                note_failure(core, upstream, &instance, pass.as_ref(), "timeout");
                let detail = "the service did not answer in time";
                return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", detail));
            }
            (None, Ended::Failed(Failure::NeverSent(error))) => (error, true),
            (None, Ended::Failed(Failure::Broken(error))) => (error, false),
        };
        note_failure(core, upstream, &instance, pass.as_ref(), if unsent { "connect" } else { "broken" });
        tracing::debug!(upstream = &*upstream.name, error = format!("{failure:#}"), "attempt failed");
        let safe = prepared.is_whole() && (unsent || prepared.is_idempotent());
        tried.push(instance);
        now = core.now_us();
        let again = safe && tried.len() <= route.retries as usize;
        let next = if again { another(upstream, prepared, &tried, unsent, now) } else { None };
        match next {
            Some(next) if upstream.budget.withdraw() => {
                core.gateway.metrics.retries.with_label_values(&[&*upstream.name]).inc();
                instance = next;
            }
            _ if unsent => return Err(all_away()),
            _ => {
                let detail = "the service broke off before it answered";
                return Err(Problem::new(StatusCode::BAD_GATEWAY, "upstream_failed", detail));
            }
        }
    }
}

/// Past the breaker, and within the bound.
fn admit(core: &Core, upstream: &Upstream, exchange: &mut Exchange, now: u64) -> Result<Option<Pass>, Problem> {
    let shed = |reason: &str| core.gateway.metrics.shed.with_label_values(&[&*upstream.name, reason]).inc();
    if let Some(concurrency) = &upstream.concurrency {
        let Some(seat) = concurrency.enter() else {
            shed("full");
            return Err(refused("upstream_full", "the service has as much to do as it bears: try again", SHORTLY));
        };
        exchange.seat = Some(seat);
    }
    let Some(breaker) = &upstream.breaker else { return Ok(None) };
    breaker.enter(now).map(Some).map_err(|wait| {
        shed("breaker");
        refused("upstream_broken", "the service has failed too often and is left alone for a while", wait)
    })
}

fn pick(upstream: &Upstream, prepared: &Prepared, except: &[Arc<Instance>], now: u64) -> Option<Arc<Instance>> {
    let asked = Asked { now, hash: prepared.hash, except };
    upstream.balancer.pick(&asked, |below| rand::random_range(0..below.max(1))).cloned()
}

/// For a further try. A connection that was closed as we used it deserves a new one, even to the same instance; to connect
/// again to the one that refused is no second chance.
fn another(
    upstream: &Upstream,
    prepared: &Prepared,
    tried: &[Arc<Instance>],
    unsent: bool,
    now: u64,
) -> Option<Arc<Instance>> {
    let last = tried.last().filter(|last| !unsent && last.is_available(now));
    pick(upstream, prepared, tried, now).or_else(|| last.cloned())
}

/// What an answer to an attempt that began at `begun_us` says of its instance and upstream.
pub fn note_answer(
    core: &Core,
    upstream: &Upstream,
    instance: &Instance,
    (pass, seat): (Option<&Pass>, Option<&Seat>),
    status: StatusCode,
    begun_us: u64,
) {
    // What a load balancer or a draining instance says; a plain 500 is the application's own business.
    if matches!(status.as_u16(), 502..=504) {
        return note_failure(core, upstream, instance, pass, "status");
    }
    let answered = core.now_us();
    let took = answered.saturating_sub(begun_us);
    instance.succeeded(answered, took);
    if let Some(pass) = pass {
        pass.note(answered, false);
    }
    if let Some(seat) = seat {
        seat.answered(took);
    }
}

/// What an attempt without a good answer says of them; `kind` is a metric's label, one of [`crate::telemetry::FAILURE_KINDS`].
pub fn note_failure(core: &Core, upstream: &Upstream, instance: &Instance, pass: Option<&Pass>, kind: &str) {
    let (metrics, name, now) = (&core.gateway.metrics, &*upstream.name, core.now_us());
    metrics.upstream_failures.with_label_values(&[name, kind]).inc();
    if instance.failed(now, &upstream.balancer.rules) {
        metrics.ejections.with_label_values(&[name]).inc();
        tracing::warn!(upstream = name, instance = instance.authority.as_str(), "instance is left out for a while");
    }
    if pass.is_some_and(|pass| pass.note(now, true)) {
        metrics.breakers_opened.with_label_values(&[name]).inc();
        tracing::warn!(upstream = name, "breaker opened: the upstream is left alone for a while");
    }
}

/// Two attempts at once.
struct Hedged<'a> {
    core: &'a Core,
    route: &'a Route,
    upstream: &'a Upstream,
    prepared: &'a Prepared,
    exchange: &'a Exchange,
    pass: Option<&'a Pass>,
}

/// The attempt that counts.
struct Won {
    ended: Result<Reply, Ended>,
    instance: Arc<Instance>,
    in_flight: InFlight,
    begun_us: u64,
}

impl Hedged<'_> {
    /// Asks a second instance if the first has not answered after `after`; the first answer counts.
    async fn race(&self, first: Arc<Instance>, in_flight: InFlight, begun: u64, after: Duration) -> Won {
        let Self { core, route, upstream, prepared, exchange, .. } = *self;
        let begun_us = core.us_of(exchange.begun);
        let one = attempt(core, route, upstream, prepared, exchange, &first, begun);
        let mut one = pin!(one);
        let ended = tokio::select! {
            biased;
            ended = &mut one => Some(ended),
            () = tokio::time::sleep(after) => None,
        };
        let second = match &ended {
            Some(_) => None,
            None => {
                let tried = std::slice::from_ref(&first);
                let picked = pick(upstream, prepared, tried, core.now_us());
                picked.filter(|_| upstream.budget.withdraw())
            }
        };
        let Some(second) = second else {
            let ended = match ended {
                Some(ended) => ended,
                None => one.await,
            };
            return Won { ended, instance: Arc::clone(&first), in_flight, begun_us };
        };
        core.gateway.metrics.hedges.with_label_values(&[&*upstream.name]).inc();
        let (other_in_flight, other_us) = (second.enter(), core.now_us());
        let other = attempt(core, route, upstream, prepared, exchange, &second, clock::exact_ms());
        let mut other = pin!(other);
        let (ended, is_first) = tokio::select! {
            biased;
            ended = &mut one => (ended, true),
            ended = &mut other => (ended, false),
        };
        if is_first {
            if ended.is_ok() {
                return Won { ended, instance: Arc::clone(&first), in_flight, begun_us };
            }
            note_failure(core, upstream, &first, self.pass, "broken");
            return Won {
                ended: other.await,
                instance: Arc::clone(&second),
                in_flight: other_in_flight,
                begun_us: other_us,
            };
        }
        if ended.is_ok() {
            // As slow as that it is at least.
            let now = core.now_us();
            first.succeeded(now, now.saturating_sub(begun_us));
            return Won { ended, instance: Arc::clone(&second), in_flight: other_in_flight, begun_us: other_us };
        }
        note_failure(core, upstream, &second, self.pass, "broken");
        Won { ended: one.await, instance: Arc::clone(&first), in_flight, begun_us }
    }
}

/// Sends once and waits: for as long as the body makes progress, and then for the route's timeout.
async fn attempt(
    core: &Core,
    route: &Route,
    upstream: &Upstream,
    prepared: &Prepared,
    exchange: &Exchange,
    instance: &Arc<Instance>,
    begun: u64,
) -> Result<Reply, Ended> {
    let body = prepared.source.as_ref().map(RequestBody::new);
    let subject = exchange.subject.as_deref();
    let outgoing = prepared.outgoing(&exchange.request_id, &exchange.trace, subject, exchange.way);
    let mut sending = pin!(core.forwarder.send(upstream.protocol, instance, &outgoing, body));
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
            let drips = source.finished().is_none() && source.drips(core.deadlines.body_rate, body_idle);
            if blocked >= body_idle || (drips && !prepared.is_grpc()) {
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

/// When to try again, where nothing better is known.
const SHORTLY: Duration = Duration::from_secs(1);

fn all_away() -> Problem {
    refused("upstream_unavailable", "the service can't be reached now: try again", SHORTLY)
}

fn refused(code: &'static str, detail: &'static str, wait: Duration) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with_retry_after(wait)
}
