//! All that can be refused before an instance is chosen: checks of the head, addresses, the route, limits, who asks, quotas; and what
//! is answered without an instance: preflights and redirects. No database on this path, and Redis or PostgreSQL only when a
//! lease is spent.

use std::sync::Arc;

use axum::response::IntoResponse as _;
use http::{HeaderValue, StatusCode, header, request::Parts};
use hyper::body::Body as _;
use kronos_common::problem::Problem;

use crate::{
    authentication::authenticate,
    condition::Asked,
    edge::cors,
    exchange::Served,
    headers,
    inspect::inspect,
    limit::{Bucket, Client, Limiter, counted},
    proxy::{Arrived, Core, too_large},
    route::{OWN_PATHS, covers},
    sniff::Verdict,
    table::{CompiledLimit, Lookup, Route},
};

/// What becomes of a request that is not refused.
pub enum Admitted {
    Route(Arc<Route>),
    Own,
    /// A preflight's answer, a redirect.
    Answer(Box<axum::response::Response>),
}

/// All that can be refused before the body is looked at.
pub async fn admit(core: &Core, arrived: &mut Arrived) -> Result<Admitted, Problem> {
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
    if let Some(networks) = &gateway.networks {
        networks.admit(arrived.origin.address)?;
    }
    if gateway.config.tls.required && !arrived.origin.is_https {
        return Err(Problem::new(StatusCode::FORBIDDEN, "tls_required", "come by https"));
    }
    if let Some(limit) = &gateway.default_limit {
        limited(core, arrived, std::slice::from_ref(&**limit), &mut Vec::new(), false).await?;
    }
    let path = arrived.parts.uri.path();
    if OWN_PATHS.iter().any(|own| covers(own, path)) {
        arrived.exchange.served = Served::Own;
        return Ok(Admitted::Own);
    }
    if let Some(wanted) = cors::preflight(&arrived.parts.method, &arrived.parts.headers)
        && let Some(answer) = preflight(core, arrived, &wanted)?
    {
        return Ok(Admitted::Answer(Box::new(answer)));
    }
    let path = arrived.parts.uri.path();
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
    if let Some(edge) = &route.edge {
        if edge.cors.is_some() {
            arrived.exchange.origin = arrived.parts.headers.get(header::ORIGIN).cloned();
        }
        if let Some(networks) = &edge.networks {
            networks.admit(arrived.origin.address)?;
        }
    }
    let mut taken = Vec::new();
    limited(core, arrived, &route.early_limits, &mut taken, !route.late_limits.is_empty()).await?;
    authenticate(core, &route, arrived).await?;
    limited(core, arrived, &route.late_limits, &mut taken, false).await?;
    if !route.quotas.is_empty() {
        Box::pin(spend_quotas(core, &route, arrived)).await?;
    }
    if arrived.body.size_hint().lower() > route.body_limit {
        return Err(too_large(route.body_limit));
    }
    if let Some(redirect) = route.edge.as_ref().and_then(|edge| edge.redirect.as_ref()) {
        let host = arrived.host.as_ref().and_then(|host| host.to_str().ok());
        let uri = &arrived.parts.uri;
        let location =
            redirect.location(host, uri.path(), uri.query()).and_then(|text| HeaderValue::try_from(text).ok());
        let location =
            location.ok_or_else(|| Problem::bad_request("invalid_host", "the redirect needs a plain Host"))?;
        return Ok(Admitted::Answer(Box::new((redirect.status, [(header::LOCATION, location)]).into_response())));
    }
    if arrived.digest.is_some() || route.edge.as_ref().is_some_and(|edge| edge.filter.is_some()) {
        Box::pin(inspect(core, &route, arrived)).await?;
    }
    Ok(Admitted::Route(route))
}

/// The answer to a preflight, if the route that it is for says anything of other origins.
fn preflight(
    core: &Core,
    arrived: &mut Arrived,
    wanted: &http::Method,
) -> Result<Option<axum::response::Response>, Problem> {
    let asked = asked(&arrived.parts, arrived.host.as_ref());
    let Lookup::Route(route) = core.gateway.live.table().find(arrived.parts.uri.path(), wanted, &asked) else {
        return Ok(None);
    };
    let Some(edge) = route.edge.as_ref().filter(|edge| edge.cors.is_some()) else { return Ok(None) };
    arrived.exchange.origin = arrived.parts.headers.get(header::ORIGIN).cloned();
    arrived.exchange.served = Served::Route(Arc::clone(&route));
    if let Some(networks) = &edge.networks {
        networks.admit(arrived.origin.address)?;
    }
    let headers = edge.cors.as_ref().map(|cors| cors.answer(&arrived.parts.headers, wanted)).transpose()?;
    Ok(headers.map(|headers| (StatusCode::NO_CONTENT, headers).into_response()))
}

/// What routes look at beside path and method.
pub fn asked<'a>(parts: &'a Parts, host: Option<&'a HeaderValue>) -> Asked<'a> {
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
        let client = client(arrived, limit.by_address, limit.by_subject, limit.by_client);
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

/// Whom a limit or quota counts.
fn client(arrived: &Arrived, by_address: bool, by_subject: bool, by_client: bool) -> Client<'_> {
    let claims = arrived.exchange.subject.as_deref();
    // Who shows no token is told apart by the address.
    let by_address = by_address || (claims.is_none() && (by_subject || by_client));
    Client {
        address: by_address.then(|| counted(arrived.origin.address)),
        subject: claims.filter(|_| by_subject).map(|claims| claims.sub.as_str()),
        client_id: claims.filter(|_| by_client).map(|claims| claims.client_id.as_str()),
    }
}

/// Counts the request in every quota of its route.
async fn spend_quotas(core: &Core, route: &Route, arrived: &Arrived) -> Result<(), Problem> {
    for quota in &route.quotas {
        let client = client(arrived, quota.by_address, quota.by_subject, quota.by_client);
        if let Err(problem) = core.gateway.quotas.take(quota, &route.name, client).await {
            core.gateway.metrics.limited.with_label_values(&[&*route.name]).inc();
            return Err(problem);
        }
    }
    Ok(())
}
