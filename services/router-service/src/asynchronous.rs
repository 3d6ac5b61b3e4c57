//! Asynchronous requests: the policy `async`. A request is accepted with a 202 and given to messaging-service, which keeps it, and
//! later its result, for the caller; `worker` passes it on. Whatever ends in between, what was answered with a 202 is not lost.

use std::{rc::Rc, sync::Arc, time::Duration};

use axum::response::IntoResponse as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kronos_common::{
    identity::{Client, ClientError, ServiceToken},
    problem::Problem,
    service::Context,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    attempts::Prepared,
    body::{RequestBody, ResponseBody, Trouble},
    config::Config,
    exchange::Exchange,
    forward::Told,
    proxy::{Core, finish_own, refuse_with, too_large},
    route::RouteSpec,
    table::Route,
};

/// The queue in which requests wait.
pub const TOPIC: &str = "kronos.gateway.requests";
/// A body must be there so soon.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// messaging-service must take a request so soon.
const TAKEN_WITHIN: Duration = Duration::from_secs(8);
/// One attempt has at most so long.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(120);

/// Requests that are passed on later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AsyncSpec {
    /// Largest body, in bytes. Default: 65536.
    #[serde(default = "sixty_four_kib")]
    #[schema(minimum = 0, maximum = 131_072)]
    pub body_limit_bytes: u32,
    /// It is sent so often at most, until it is answered otherwise than with 502, 503 or 504. Default: 5.
    #[serde(default = "five")]
    #[schema(minimum = 1, maximum = 20)]
    pub attempts: u32,
    /// So long it may take, and its result is kept, in seconds. Default: 3600.
    #[serde(default = "an_hour")]
    #[schema(minimum = 60, maximum = 86_400)]
    pub keep_seconds: u32,
}

fn sixty_four_kib() -> u32 {
    64 * 1024
}

fn five() -> u32 {
    5
}

fn an_hour() -> u32 {
    3600
}

impl AsyncSpec {
    /// Everything that is wrong with it.
    pub fn check(&self, route: &RouteSpec, wrong: &mut impl FnMut(&str, &'static str, String)) {
        if self.body_limit_bytes > 131_072 {
            wrong("/async/bodyLimitBytes", "out_of_range", "from 0 to 131072".to_owned());
        }
        if !(1..=20).contains(&self.attempts) {
            wrong("/async/attempts", "out_of_range", "from 1 to 20".to_owned());
        }
        if !(60..=86_400).contains(&self.keep_seconds) {
            wrong("/async/keepSeconds", "out_of_range", "from 60 to 86400".to_owned());
        }
        if !route.authentication.iter().all(|way| way.has_permissions()) {
            let detail = "a result needs an owner: `authentication` must be `jwt`, `apiKey` or both";
            wrong("/async", "needs_token", detail.to_owned());
        }
        if route.cache.is_some() || route.mirror.is_some() || route.redirect.is_some() {
            let detail = "nothing is answered at once that could be kept, copied or redirected: choose one";
            wrong("/async", "not_with_cache_mirror_redirect", detail.to_owned());
        }
    }
}

/// A request as it waits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passed {
    pub route: String,
    pub upstream: String,
    pub method: String,
    /// Path and query.
    pub target: String,
    /// With what the gateway says, and without the caller's token and cookies.
    pub headers: Vec<(String, String)>,
    /// Base64.
    pub body: String,
    pub attempts: u32,
    pub timeout_ms: u64,
}

/// messaging-service, as the gateway uses it; clones share it.
#[derive(Debug, Clone)]
pub struct Passing {
    pub client: Client,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taken {
    message_id: Uuid,
}

impl Passing {
    /// # Errors
    /// A URL that is none.
    pub fn new(config: &Config, context: &Context) -> anyhow::Result<Self> {
        let client = Client::new(&config.services.messaging_url, ServiceToken::new(&config.identity)?, context)?;
        Ok(Self { client })
    }

    /// Gives a request away; gives its id.
    async fn give(&self, owner: &str, keep: Duration, passed: &Passed) -> Result<Uuid, Problem> {
        let owner = url::form_urlencoded::byte_serialize(owner.as_bytes()).collect::<String>();
        let path = format!("/request/{TOPIC}?timeoutMs={}&owner={owner}", keep.as_millis());
        let body = serde_json::to_vec(&json!({ "payload": passed })).map_err(Problem::internal)?;
        let headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (http::HeaderName::from_static("prefer"), HeaderValue::from_static("respond-async")),
        ]);
        let client = self.client.clone().with_deadline(TAKEN_WITHIN);
        let answer = client.send(Method::POST, &path, Some(body.into()), &headers).await.map_err(refusal)?;
        let taken: Taken = serde_json::from_slice(&answer.body).map_err(Problem::internal)?;
        Ok(taken.message_id)
    }
}

/// The queue is not there yet, or messaging-service is away.
fn refusal(error: ClientError) -> Problem {
    let detail = "the request can't be kept now: send it again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_accepted", detail)
        .with_retry_after(Duration::from_secs(1))
        .caused_by(error)
}

/// Accepts a request, or says why not.
pub async fn accept(
    core: &Rc<Core>,
    route: &Route,
    spec: &AsyncSpec,
    upstream: &str,
    prepared: Prepared,
    exchange: Box<Exchange>,
    limits: Told,
) -> Response<ResponseBody> {
    match pass(core, route, spec, upstream, &prepared, &exchange).await {
        Ok(id) => {
            let location = format!("/requests/{id}");
            let body = json!({ "requestId": id, "state": "pending", "location": location });
            let response = (StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(body)).into_response();
            finish_own(response, exchange, limits.as_ref())
        }
        Err(problem) => refuse_with(exchange, limits.as_ref(), problem, prepared.is_unread()),
    }
}

async fn pass(
    core: &Core,
    route: &Route,
    spec: &AsyncSpec,
    upstream: &str,
    prepared: &Prepared,
    exchange: &Exchange,
) -> Result<Uuid, Problem> {
    let owner = exchange.subject.as_ref().map(|claims| claims.sub.clone());
    let owner = owner.ok_or_else(|| Problem::forbidden("this needs a token"))?;
    let body = body(route, spec, prepared).await?;
    let outgoing = prepared.outgoing(&exchange.request_id, &exchange.trace, exchange.subject.as_deref(), exchange.way);
    let built = outgoing.build("http", "instance").map_err(Problem::internal)?;
    // The token may have ended by then, and belongs into no queue; the instance is told who asked.
    let travels = |name: &http::HeaderName| ![header::AUTHORIZATION, header::COOKIE].contains(name);
    let told = built.headers().iter().filter(|(name, _)| travels(name) && name.as_str() != "dpop");
    let headers = told.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned()))).collect();
    let passed = Passed {
        route: route.name.to_string(),
        upstream: upstream.to_owned(),
        method: prepared.parts.method.to_string(),
        target: outgoing.target.to_owned(),
        headers,
        body: STANDARD.encode(&body),
        attempts: spec.attempts,
        timeout_ms: u64::try_from(route.timeout.min(LONGEST_ATTEMPT).as_millis()).unwrap_or(u64::MAX),
    };
    let (passing, keep) = (core.gateway.passing.clone(), Duration::from_secs(spec.keep_seconds.into()));
    // Its connections live on the main runtime.
    let given = core.gateway.main.spawn(async move { passing.give(&owner, keep, &passed).await });
    given.await.map_err(Problem::internal)?
}

/// The whole body.
async fn body(route: &Route, spec: &AsyncSpec, prepared: &Prepared) -> Result<Bytes, Problem> {
    let Some(source) = &prepared.source else { return Ok(Bytes::new()) };
    let most = u64::from(spec.body_limit_bytes).min(route.body_limit);
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    let read = Limited::new(RequestBody::new(&Arc::clone(source)), limit).collect();
    match tokio::time::timeout(BODY_WITHIN, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) if source.trouble() == Some(Trouble::Client) => {
            Err(Problem::bad_request("incomplete_body", "the body ended before it was complete"))
        }
        Ok(Err(_)) => Err(too_large(most)),
        Err(_) => {
            let detail = "the body did not come in time";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail))
        }
    }
}
