//! Sends an admitted request to the upstream that is its, and passes the answer on as it comes; with what goes beside it: a
//! copy for a mirror.

use std::{rc::Rc, sync::Arc};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::{body::Body as _, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use kronos_common::problem::Problem;

use crate::{
    asynchronous,
    attempts::{Prepared, attempts},
    balance,
    body::{ResponseBody, Source},
    cache::{self, flow::Storing},
    exchange::Exchange,
    headers,
    limit::{Decision, Rule},
    proxy::{Arrived, Core, finish, refuse_with},
    table::Route,
    tunnel,
    upstream::{Content, Duplex, Reply},
};

pub async fn forward(core: &Rc<Core>, route: &Route, arrived: Arrived) -> Response<ResponseBody> {
    let Arrived { mut parts, body, connection, origin, host, keeps_trace, mut exchange, limits, ahead, .. } = arrived;
    let mirror = route.mirror.as_deref().filter(|mirror| mirror.takes());
    let has_body = !body.is_end_stream() || ahead.as_ref().is_some_and(|ahead| !ahead.frames.is_empty());
    let source = has_body.then(|| {
        let ahead = ahead.map(|ahead| *ahead);
        let source = Source::new(body, ahead, route.body_limit, Arc::clone(&connection));
        Arc::new(match mirror {
            Some(mirror) => source.with_copy(mirror.spec.body_limit_bytes as usize),
            None => source,
        })
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
    let subject = exchange.subject.as_ref().map(|claims| claims.sub.as_str());
    let canary = route.canary.as_deref().filter(|canary| canary.takes(&parts.headers, subject, origin.address));
    let Some(upstream) = canary.map(|canary| &canary.upstream).or(route.upstream.as_ref()) else {
        // It redirects, and was answered before.
        let unread = source.is_some_and(|source| source.finished().is_none());
        return refuse_with(exchange, limits.as_ref(), Problem::not_found("upstream"), unread);
    };
    if canary.is_some() {
        exchange.canary = Some(Arc::clone(&upstream.name));
    }
    let hash = match upstream.balancer.method {
        balance::Method::Hash => upstream.balancer.hash_by.of(&parts.headers, origin.address),
        _ => 0,
    };
    let prepared = Prepared { parts, target, source, upgrade, origin, host, keeps_trace, hash };
    if let Some(spec) = &route.spec.asynchronous {
        return Box::pin(asynchronous::accept(core, route, spec, &upstream.name, prepared, exchange, limits)).await;
    }
    if let Some(cache) = route.spec.cache.as_ref().filter(|_| prepared.upgrade.is_none()) {
        return Box::pin(cache::flow::serve(core, route, upstream, cache, prepared, exchange, limits)).await;
    }
    let sent = attempts(core, route, upstream, &prepared, &mut exchange).await;
    match (sent, client_side) {
        (Ok(Reply { headers, content: Content::Tunnel { protocol, stream, first }, .. }), Some(client_side)) => {
            connection.upgraded();
            change_over(core, client_side, headers, protocol, (stream, first), exchange)
        }
        (Ok(reply), _) => {
            if let Some(mirror) = mirror {
                mirror.send(core, prepared, &exchange);
            }
            pass_on(core, reply, exchange, limits, None)
        }
        (Err(problem), _) => refuse_with(exchange, limits.as_ref(), problem, prepared.is_unread()),
    }
}

/// What the limits say to the caller.
pub type Told = Option<(Arc<Rule>, Decision)>;

/// Passes an answer on as it comes; `storing` keeps it meanwhile.
pub fn pass_on(
    core: &Rc<Core>,
    reply: Reply,
    mut exchange: Box<Exchange>,
    limits: Told,
    storing: Option<Box<Storing>>,
) -> Response<ResponseBody> {
    let Reply { status, mut headers, content } = reply;
    let Content::Body(body) = content else {
        let detail = "the instance changed the protocol";
        let problem = Problem::new(StatusCode::BAD_GATEWAY, "upstream_failed", detail);
        return refuse_with(exchange, limits.as_ref(), problem, true);
    };
    finish(&mut headers, &mut exchange, status, limits.as_ref());
    let is_events =
        headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let drain = is_events.then(|| core.gateway.shutdown.clone().cancelled_owned());
    let mut response = Response::new(ResponseBody::instance(body, exchange, drain, storing));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Passes the answer to an upgrade on, and then bytes both ways until one side ends or the gateway does.
fn change_over(
    core: &Rc<Core>,
    client_side: OnUpgrade,
    mut headers: HeaderMap,
    protocol: Option<HeaderValue>,
    (instance, first): (Box<dyn Duplex>, BytesMut),
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
