//! `POST /routes/explain`: what would become of a request, and why, without sending it.

use std::{collections::BTreeMap, net::IpAddr};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri},
};
use kronos_common::{
    extract::Json,
    identity::Allowed,
    problem::{FieldError, Problem, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{CanReadRoutes, refusals::ToWriters, state::UpstreamState};
use crate::{
    App,
    asynchronous::AsyncSpec,
    cache::CacheSpec,
    condition::Asked,
    edge::explain::AtEdge,
    headers,
    route::{Authentication, Limit, OWN_PATHS, covers},
    scope::Scope,
    table::{Lookup, Route},
};

/// A request that nobody sends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Described {
    #[serde(default = "get")]
    #[schema(example = "GET", max_length = 20)]
    pub method: String,
    /// Path and query.
    #[schema(example = "/robots/7?full=1", min_length = 1, max_length = 8192)]
    pub path: String,
    #[schema(max_length = 255)]
    pub host: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The client's address.
    #[schema(value_type = Option<String>, example = "10.0.0.7")]
    pub address: Option<IpAddr>,
}

fn get() -> String {
    "GET".to_owned()
}

/// What would become of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub outcome: Outcome,
    /// The path as it is matched.
    pub path: String,
    /// The routes whose path takes this one, in the order in which they are tried.
    pub candidates: Vec<Candidate>,
    /// What the route that takes it does with it.
    pub route: Option<Applied>,
}

/// Who answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The gateway's own endpoints.
    Gateway,
    /// A route.
    Route,
    /// 405: routes take the path with other methods only.
    MethodNotAllowed,
    /// 404.
    NotFound,
}

/// A route that was looked at.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    pub route: String,
    /// Whether this one takes the request.
    pub taken: bool,
    /// Why not: `host`, `header NAME`, `query NAME`, `method`, or `later`, because one before it takes the request.
    pub because: Option<String>,
}

/// A route's policies.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    pub name: String,
    /// Absent: the route redirects.
    pub upstream: Option<String>,
    /// Path and query as the instance sees them.
    pub sends: String,
    pub authentication: Vec<Authentication>,
    pub permission: Option<String>,
    pub scopes: Vec<Scope>,
    pub limits: Vec<Limit>,
    pub timeout_ms: u64,
    pub body_limit_bytes: u64,
    /// Further tries, if they are safe and `retriesLeft` allows.
    pub retries: u32,
    pub hedge_after_ms: Option<u64>,
    /// Whether the request goes to the canary's upstream: then `upstream` is that.
    pub is_canary: bool,
    /// Which answers are kept.
    pub cache: Option<CacheSpec>,
    /// How it is passed on later.
    #[serde(rename = "async")]
    pub asynchronous: Option<AsyncSpec>,
    /// The upstream that gets a copy.
    pub mirror: Option<String>,
    /// The upstream as this gateway sees it now.
    #[serde(flatten)]
    pub state: Option<UpstreamState>,
    /// Networks, redirect, headers, origins and filter.
    pub edge: AtEdge,
}

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(explain))
}

/// Tells which route, instance and policies would apply to a request, and why, without sending it.
#[utoipa::path(
    post, path = "/routes/explain", tag = "router-service", security(("bearer" = [])), request_body = Described,
    responses((status = 200, body = Explanation), ToWriters)
)]
async fn explain(
    State(app): State<App>,
    _: Allowed<CanReadRoutes>,
    Json(described): Json<Described>,
) -> Result<Json<Explanation>> {
    let Request { method, uri, headers } = described.read()?;
    let path = headers::normal_path(uri.path())?.into_owned();
    let asked = Asked { host: described.host.as_deref(), headers: &headers, query: uri.query() };
    let table = app.live.table();
    if OWN_PATHS.iter().any(|own| covers(own, &path)) {
        return Ok(Json(Explanation { outcome: Outcome::Gateway, path, candidates: Vec::new(), route: None }));
    }
    let mut is_taken = false;
    let candidates = table.candidates(&path, &method, &asked).into_iter().map(|(route, refuses)| {
        let taken = refuses.is_none() && !is_taken;
        is_taken |= taken;
        let because = if taken { None } else { refuses.or_else(|| Some("later".to_owned())) };
        Candidate { route: route.name.to_string(), taken, because }
    });
    let candidates = candidates.collect();
    let (outcome, route) = match table.find(&path, &method, &asked) {
        Lookup::Route(route) => {
            let edge = AtEdge::of(&route, &method, &path, &uri, &asked, described.address);
            (Outcome::Route, Some(applied(&route, &path, &uri, &headers, app.now_us(), edge)))
        }
        Lookup::OtherMethods(_) => (Outcome::MethodNotAllowed, None),
        Lookup::Nothing => (Outcome::NotFound, None),
    };
    Ok(Json(Explanation { outcome, path, candidates, route }))
}

struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Described {
    fn read(&self) -> Result<Request> {
        let mut errors = Vec::new();
        let host = self.host.as_deref().unwrap_or_default();
        for (pointer, text, most) in
            [("/method", &*self.method, 20), ("/path", &*self.path, 8192), ("/host", host, 255)]
        {
            if text.len() > most {
                errors.push(FieldError::new(pointer, "too_long", format!("at most {most} bytes")));
            }
        }
        let method = Method::from_bytes(self.method.as_bytes());
        if method.is_err() {
            errors.push(FieldError::new("/method", "invalid", "this is no method"));
        }
        let uri = self.path.parse::<Uri>().ok().filter(|uri| uri.authority().is_none() && self.path.starts_with('/'));
        if uri.is_none() {
            errors.push(FieldError::new("/path", "invalid", "write a path, and perhaps a query: `/robots/7?full=1`"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            match (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => {
                    headers.append(name, value);
                }
                _ => {
                    errors.push(FieldError::new("/headers", "invalid", format!("`{name}` and its value are no header")))
                }
            }
        }
        match (method, uri) {
            (Ok(method), Some(uri)) if errors.is_empty() => Ok(Request { method, uri, headers }),
            _ => Err(Problem::invalid(errors)),
        }
    }
}

fn applied(route: &Route, path: &str, uri: &Uri, headers: &HeaderMap, now: u64, edge: AtEdge) -> Applied {
    let sent = match &route.spec.rewrite {
        Some(rewrite) => rewrite.apply(&route.spec.matches.path, path),
        None => path.to_owned(),
    };
    let address = std::net::IpAddr::from([0, 0, 0, 0]);
    let canary = route.canary.as_deref().filter(|canary| canary.takes(headers, None, address));
    let upstream = canary.map(|canary| &canary.upstream).or(route.upstream.as_ref());
    Applied {
        name: route.name.to_string(),
        upstream: upstream.map(|upstream| upstream.name.to_string()),
        sends: uri.query().map_or_else(|| sent.clone(), |query| format!("{sent}?{query}")),
        authentication: route.spec.authentication.clone(),
        permission: route.spec.permission.clone(),
        scopes: route.spec.scopes.clone(),
        limits: route.spec.limits.clone(),
        timeout_ms: u64::try_from(route.timeout.as_millis()).unwrap_or(u64::MAX),
        body_limit_bytes: route.body_limit,
        retries: route.retries,
        hedge_after_ms: route.spec.hedge_after_ms,
        is_canary: canary.is_some(),
        cache: route.spec.cache.clone(),
        asynchronous: route.spec.asynchronous.clone(),
        mirror: route.mirror.as_ref().map(|mirror| mirror.upstream.name.to_string()),
        state: upstream.map(|upstream| UpstreamState::of(upstream, now)),
        edge,
    }
}
