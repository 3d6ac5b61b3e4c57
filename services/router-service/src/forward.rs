//! Sends an admitted request to an instance, a second time to another if that is safe and affordable, and passes the answer
//! on as it comes. Upgrades become tunnels.

use std::{pin::pin, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Scheme};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use kronos_common::problem::Problem;
use tokio::time::{Instant, sleep_until};

use crate::{
    balance::{self, Instance},
    body::{RequestBody, ResponseBody, Source, Trouble},
    exchange::Exchange,
    headers::{self, Told},
    proxy::{Arrived, Core, finish, refuse_with, too_large},
    table::Route,
    upstream::Failure,
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
    let Arrived { mut parts, body, connection, origin, host, keeps_trace, mut exchange, limits } = arrived;
    exchange.upstream = Some(Arc::clone(&route.upstream.name));
    let source =
        (!body.is_end_stream()).then(|| Arc::new(Source::new(body, route.body_limit, Arc::clone(&connection))));
    exchange.source.clone_from(&source);
    let upgrade = headers::wanted_upgrade(parts.version, &parts.headers).filter(|_| parts.method == Method::GET);
    let client_side = upgrade.as_ref().and_then(|_| parts.extensions.remove::<OnUpgrade>());
    headers::strip_request(&mut parts.headers);
    headers::tell(
        &mut parts.headers,
        &Told {
            origin: &origin,
            host: host.as_ref(),
            request_id: &exchange.request_id,
            trace: &exchange.trace,
            keeps_trace,
            subject: exchange.subject.as_deref(),
        },
    );
    // The instance's own name goes to the instance.
    parts.headers.remove(header::HOST);
    if let Some(protocol) = &upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol.clone());
    }
    let prepared = Prepared { parts, source, is_upgrade: upgrade.is_some() };
    match attempts(core, route, &prepared, &mut exchange).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => match client_side {
            Some(client_side) => {
                connection.upgraded();
                tunnel(core, client_side, response, exchange)
            }
            None => {
                let problem = failed("upstream_failed", StatusCode::BAD_GATEWAY, "the instance changed the protocol");
                refuse_with(exchange, limits.as_ref(), problem, prepared.is_unread())
            }
        },
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            headers::strip_response(&mut parts.headers);
            finish(&mut parts.headers, &mut exchange, parts.status, limits.as_ref());
            let is_events = parts
                .headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
            let drain = is_events.then(|| core.gateway.shutdown.clone().cancelled_owned());
            parts.version = http::Version::HTTP_11;
            parts.extensions.clear();
            Response::from_parts(parts, ResponseBody::instance(body, exchange, drain))
        }
        Err(problem) => refuse_with(exchange, limits.as_ref(), problem, prepared.is_unread()),
    }
}

/// A request as it goes to an instance, but for the instance.
struct Prepared {
    parts: http::request::Parts,
    source: Option<Arc<Source>>,
    is_upgrade: bool,
}

impl Prepared {
    fn is_unread(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.finished().is_none())
    }

    fn to(&self, instance: &Instance) -> Result<Request<RequestBody>, Problem> {
        let target = self.parts.uri.path_and_query().cloned();
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(instance.authority.clone());
        uri.path_and_query = target;
        let body = self.source.as_ref().map_or_else(RequestBody::empty, RequestBody::new);
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).map_err(Problem::internal)?;
        *request.headers_mut() = self.parts.headers.clone();
        Ok(request)
    }

    fn is_whole(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_whole())
    }

    fn is_idempotent(&self) -> bool {
        matches!(self.parts.method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS)
    }
}

/// One attempt, and perhaps a second one.
async fn attempts(
    core: &Core,
    route: &Route,
    prepared: &Prepared,
    exchange: &mut Exchange,
) -> Result<Response<Incoming>, Problem> {
    let upstream = &route.upstream;
    let metrics = &core.gateway.metrics;
    let mut first: Option<Arc<Instance>> = None;
    upstream.budget.deposit(core.gateway.config.balance.retry_percent);
    loop {
        let now = core.now_us();
        let random = |below: u32| rand::random_range(0..below.max(1));
        let picked = balance::pick(&upstream.members, first.as_deref(), now, &core.rules, random);
        // A connection that was closed as we used it deserves a new one, even to the only instance.
        let Some(instance) = picked.or_else(|| first.as_ref().filter(|_| !upstream.members.is_empty())).cloned() else {
            return Err(all_away());
        };
        exchange.in_flight = Some(instance.enter());
        let failure = match attempt(core, route, prepared, &instance).await? {
            Ok(response) => {
                let took = core.now_us().saturating_sub(now);
                // What a load balancer or a draining instance says; a plain 500 is the application's own business.
                if matches!(response.status().as_u16(), 502..=504) {
                    note_failure(core, route, &instance, "status");
                } else {
                    instance.succeeded(core.now_us(), took);
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
        let safe = prepared.is_whole() && (unsent || (prepared.is_idempotent() && !prepared.is_upgrade));
        // To connect again to the one instance that refused is no second chance.
        let elsewhere = upstream.members.len() > 1 || !unsent;
        if first.is_none() && safe && elsewhere && upstream.budget.withdraw() {
            metrics.retries.with_label_values(&[&*upstream.name]).inc();
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
    instance: &Instance,
) -> Result<Result<Response<Incoming>, Ended>, Problem> {
    let mut sending = pin!(core.forwarder.send(prepared.to(instance)?));
    let body_idle = Duration::from_millis(core.deadlines.body_idle);
    let begun = Instant::now();
    let first = prepared.source.as_ref().map_or(route.timeout, |_| route.timeout.min(body_idle));
    let mut timer = pin!(sleep_until(begun + first));
    let mut received = 0;
    let mut progress = begun;
    loop {
        tokio::select! {
            biased;
            sent = &mut sending => return Ok(sent.map_err(Ended::Failed)),
            () = &mut timer => {}
        }
        let Some(source) = &prepared.source else { return Ok(Err(Ended::TimedOut)) };
        let now = Instant::now();
        let since = match source.finished() {
            Some(finished) => Instant::from_std(finished).max(begun),
            None => {
                if source.received() > received {
                    (received, progress) = (source.received(), now);
                }
                progress
            }
        };
        let blocked = if source.finished().is_none() { source.blocked_for() } else { Duration::ZERO };
        if blocked >= body_idle {
            return Ok(Err(Ended::ClientPaused));
        }
        let deadline = since + route.timeout;
        let waits_for_client = !blocked.is_zero();
        if now >= deadline && !waits_for_client {
            return Ok(Err(Ended::TimedOut));
        }
        let next = if waits_for_client { now + (body_idle - blocked) } else { deadline };
        timer.as_mut().reset(next.max(now + Duration::from_millis(1)));
    }
}

/// Passes the answer to an upgrade on, and then bytes both ways until one side ends or the gateway does.
fn tunnel(
    core: &Rc<Core>,
    client_side: OnUpgrade,
    mut response: Response<Incoming>,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let instance_side = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    headers::strip_response(&mut parts.headers);
    finish(&mut parts.headers, &mut exchange, parts.status, None);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(header::UPGRADE, protocol);
    }
    let shutdown = core.gateway.shutdown.clone();
    core.tasks.spawn_local(async move {
        let (Ok(client), Ok(instance)) = tokio::join!(client_side, instance_side) else { return };
        let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
        let mut both = pin!(tokio::io::copy_bidirectional(&mut client, &mut instance));
        tokio::select! {
            copied = &mut both => {
                if let Ok((_, down)) = copied {
                    exchange.sent(down);
                    exchange.complete();
                }
            }
            () = shutdown.cancelled() => {}
        }
    });
    Response::from_parts(parts, ResponseBody::none())
}

fn all_away() -> Problem {
    failed("upstream_unavailable", StatusCode::SERVICE_UNAVAILABLE, "the service can't be reached now: try again")
        .with_retry_after(Duration::from_secs(1))
}

fn failed(code: &'static str, status: StatusCode, detail: &'static str) -> Problem {
    Problem::new(status, code, detail)
}
