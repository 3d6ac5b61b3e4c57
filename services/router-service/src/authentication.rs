//! Who sent a request: a token, an API key, a signature or a client's certificate, as far as the route takes them. Of several ways
//! any one does.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use hyper::body::Body as _;
use kronos_common::{
    identity::{Claims, permission_matches},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    node_keys::{NodeKeys, seconds_now},
    proxy::{Arrived, Core},
    scope,
    signature::{self, ContentDigest, Message, Signed},
    table::Route,
};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// How every API key begins.
const KEY_PREFIX: &str = kronos_common::identity::api_key::PREFIX;

/// A way to prove who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Authentication {
    /// An access token of this platform, or an API key as a bearer token.
    Jwt,
    /// An API key of this platform, as `X-API-Key` or as a bearer token.
    ApiKey,
    /// A TLS client certificate of a configured authority.
    Mtls,
    /// A signature over the request (RFC 9421) by a node's key.
    Signature,
    /// Nothing is asked. Together with `jwt`: a token is not needed, but one that is sent must be good.
    None,
}

impl Authentication {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ApiKey => "apiKey",
            Self::Mtls => "mtls",
            Self::Signature => "signature",
            Self::None => "none",
        }
    }

    /// Whether it tells what the caller may do.
    pub fn has_permissions(self) -> bool {
        matches!(self, Self::Jwt | Self::ApiKey)
    }
}

/// Finds out who sent a request, and whether the route takes them.
///
/// # Errors
/// 401 with what is missing or wrong, 403 `permission_denied` or `insufficient_scope`, 503 while nobody can be asked.
pub async fn authenticate(core: &Core, route: &Route, arrived: &mut Arrived) -> Result<(), Problem> {
    if route.ways.is_some() {
        return Box::pin(any_way(core, route, arrived)).await;
    }
    if !route.takes_token {
        return Ok(());
    }
    let claims = match claims(core, &arrived.parts).await {
        Ok(claims) => claims,
        Err(problem) if problem.code() == "token_missing" && route.takes_anonymous => return Ok(()),
        Err(problem) => return Err(problem),
    };
    permit(route, &claims)?;
    arrived.exchange.subject = Some(claims);
    Ok(())
}

fn permit(route: &Route, claims: &Claims) -> Result<(), Problem> {
    match &route.permission {
        Some(permission) if !claims.permissions.iter().any(|granted| permission_matches(granted, permission)) => {
            Err(Problem::forbidden(format!("this needs the permission {permission}")))
        }
        _ if route.scopes.is_empty() => Ok(()),
        _ => scope::permit(&route.scopes, claims.scope.as_deref().unwrap_or_default()),
    }
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

/// The first way that is shown and good decides; if none is, the first that is shown and bad.
async fn any_way(core: &Core, route: &Route, arrived: &mut Arrived) -> Result<(), Problem> {
    let ways = route.ways.as_deref().unwrap_or_default();
    let mut refused = None;
    for way in ways {
        let shown = match way {
            Authentication::None => continue,
            Authentication::Jwt if !arrived.parts.headers.contains_key(header::AUTHORIZATION) => Ok(None),
            Authentication::Jwt => claims(core, &arrived.parts).await.map(Some),
            Authentication::ApiKey => api_key(core, &mut arrived.parts).await,
            Authentication::Signature => signed(core, arrived).await,
            Authentication::Mtls => certified(arrived),
        };
        match shown {
            Ok(Some(claims)) => {
                permit(route, &claims)?;
                arrived.exchange.subject = Some(claims);
                arrived.exchange.way = Some(way.as_str());
                return Ok(());
            }
            Ok(None) => {}
            Err(problem) => refused = refused.or(Some(problem)),
        }
    }
    match refused {
        Some(problem) => Err(problem),
        None if route.takes_anonymous => Ok(()),
        None => Err(missing(ways)),
    }
}

fn missing(ways: &[Authentication]) -> Problem {
    // Most callers have a token, so that is what they are told of.
    let first = ways.iter().find(|way| **way != Authentication::None);
    let first = first.filter(|_| !ways.contains(&Authentication::Jwt));
    match first {
        Some(Authentication::ApiKey) => Problem::unauthorized(
            "api_key_missing",
            "send an API key: `X-API-Key: kro_…` or `Authorization: Bearer kro_…`",
        ),
        Some(Authentication::Signature) => {
            Problem::unauthorized("signature_missing", "sign the request: `Signature-Input` and `Signature` (RFC 9421)")
        }
        Some(Authentication::Mtls) => {
            Problem::unauthorized("certificate_missing", "connect by TLS with a certificate of a known authority")
        }
        Some(Authentication::Jwt | Authentication::None) | None => {
            Problem::unauthorized("token_missing", "send an access token: `Authorization: Bearer …`")
        }
    }
}

/// A key in its own header, or as a bearer token. Services behind take it as a bearer token, so that is how it goes on.
async fn api_key(core: &Core, parts: &mut Parts) -> Result<Option<Arc<Claims>>, Problem> {
    let mut own = parts.headers.get_all(&X_API_KEY).iter();
    let shown = match (own.next(), own.next()) {
        (Some(_), Some(_)) => return Err(Problem::unauthorized("api_key_invalid", "send one API key")),
        (Some(key), None) => {
            let text = key.to_str().ok().filter(|text| text.starts_with(KEY_PREFIX));
            let text = text.ok_or_else(|| Problem::unauthorized("api_key_invalid", "this is no API key"))?;
            let mut value = HeaderValue::try_from(format!("Bearer {text}")).map_err(Problem::internal)?;
            value.set_sensitive(true);
            Some(value)
        }
        (None, _) => None,
    };
    if let Some(value) = shown {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.clone())]);
        let claims = core.gateway.verifier.authenticate(&parts.method, &parts.uri, &headers).await?;
        parts.headers.remove(&X_API_KEY);
        parts.headers.insert(header::AUTHORIZATION, value);
        return Ok(Some(claims));
    }
    let is_key = |value: &HeaderValue| {
        let token = value.to_str().ok().and_then(|text| text.split_once(' '));
        token.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer") && token.trim().starts_with(KEY_PREFIX)
        })
    };
    if !parts.headers.get_all(header::AUTHORIZATION).iter().any(is_key) {
        return Ok(None);
    }
    core.gateway.verifier.authenticate(&parts.method, &parts.uri, &parts.headers).await.map(Some)
}

/// The certificate that the connection was opened with.
fn certified(arrived: &Arrived) -> Result<Option<Arc<Claims>>, Problem> {
    match &arrived.connection.certificate {
        Some(claims) if claims.exp <= seconds_now() => {
            Err(Problem::unauthorized("certificate_expired", "the certificate has expired since you connected"))
        }
        known => Ok(known.clone()),
    }
}

async fn signed(core: &Core, arrived: &mut Arrived) -> Result<Option<Arc<Claims>>, Problem> {
    let refuse = |detail: &str| Problem::unauthorized("signature_invalid", detail);
    let Some(signed) = signature::read(&arrived.parts.headers).map_err(refuse)? else { return Ok(None) };
    let nodes = &core.gateway.node_keys;
    let (node, thumbprint) = match signed.key_id.split_once(':') {
        Some((node, thumbprint)) => (node, Some(thumbprint)),
        None => (signed.key_id, None),
    };
    let node = Uuid::try_parse(node).map_err(|_| refuse("`keyid` is `{node's id}` or `{node's id}:{keyId}`"))?;
    let has_body = !arrived.body.is_end_stream();
    check_claims(&signed, nodes, arrived.parts.uri.query(), has_body).map_err(|detail| refuse(&detail))?;
    let message = Message {
        method: &arrived.parts.method,
        path: arrived.parts.uri.path(),
        query: arrived.parts.uri.query(),
        host: arrived.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
        is_https: arrived.origin.is_https,
        headers: &arrived.parts.headers,
    };
    let base = signed.base(&message).map_err(|detail| refuse(&detail))?;
    // Also of no body: one may have been taken away.
    let digest = if has_body || signed.covers("content-digest") {
        let digest = ContentDigest::read(&arrived.parts.headers);
        Some(digest.ok_or_else(|| refuse("`Content-Digest` names neither sha-256 nor sha-512"))?)
    } else {
        None
    };
    let asked = Arc::clone(nodes);
    let keys = core.gateway.main.spawn(async move { asked.of(node).await }).await.map_err(Problem::internal)??;
    let mut good = keys.iter().filter(|key| thumbprint.is_none_or(|wanted| wanted == key.thumbprint));
    if !good.any(|key| signed.is_by(&key.public, &base)) {
        return Err(refuse("no good key of this node made it for this request"));
    }
    let (asked, key_id, bytes) = (Arc::clone(nodes), node.to_string(), signed.signature.clone());
    let fresh = core.gateway.main.spawn(async move { asked.is_fresh(&key_id, &bytes).await }).await;
    if !fresh.map_err(Problem::internal)? {
        return Err(Problem::unauthorized(
            "signature_replayed",
            "this signature was seen before: sign each request anew",
        ));
    }
    arrived.digest = digest.map(Box::new);
    Ok(Some(Arc::new(known(node.to_string(), seconds_now() + 60))))
}

/// Time, algorithm and coverage, before anybody is asked.
fn check_claims(signed: &Signed<'_>, nodes: &NodeKeys, query: Option<&str>, has_body: bool) -> Result<(), String> {
    let (rules, now) = (&nodes.rules, seconds_now());
    let (window, leeway) = (i64::from(rules.window_seconds), i64::from(rules.leeway_seconds));
    if signed.algorithm.is_some_and(|algorithm| algorithm != "ed25519") {
        return Err("only ed25519 is taken".to_owned());
    }
    let Some(created) = signed.created else { return Err("`created` is missing".to_owned()) };
    if created > now + leeway || created < now - window {
        return Err(format!("`created` must be within the last {window} s; it is {now} here"));
    }
    if signed.expires.is_some_and(|expires| expires < now) {
        return Err("it has expired".to_owned());
    }
    let is_needed = |name: &str| name != "@query" || query.is_some();
    let mut required = rules.required_components.iter().map(String::as_str).filter(|name| is_needed(name));
    if let Some(missing) = required.find(|name| !signed.covers(name)) {
        return Err(format!("it must cover `{missing}`"));
    }
    if has_body && !signed.covers("content-digest") {
        return Err("a request with a body must cover `content-digest` (RFC 9530)".to_owned());
    }
    Ok(())
}

/// Somebody who is known by a key or certificate, until `exp`; without permissions.
pub fn known(subject: String, exp: i64) -> Claims {
    Claims {
        iss: String::new(),
        client_id: subject.clone(),
        sub: subject,
        aud: Vec::new(),
        exp,
        iat: 0,
        nbf: None,
        jti: String::new(),
        sid: None,
        roles: Vec::new(),
        permissions: Vec::new(),
        epoch: 0,
        username: None,
        scope: None,
        act: None,
        cnf: None,
    }
}
