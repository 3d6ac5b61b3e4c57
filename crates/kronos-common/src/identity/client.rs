//! HTTP from service to service: the service's own token, a deadline for the whole call, few retries under a budget, the
//! trace carried on, problems understood. Not for strangers' servers: it follows no redirect and uses no proxy.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use prometheus::{IntCounterVec, Opts};
use serde::{Serialize, de::DeserializeOwned};

use super::ServiceToken;
use crate::{
    problem::{Problem, ProblemBody},
    service::Context,
    trace,
};

/// A call's deadline where none is set, retries included.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(2);

const CONNECT_WITHIN: Duration = Duration::from_millis(500);
const MOST_RETRIES: u32 = 2;
const FIRST_BACK_OFF: Duration = Duration::from_millis(25);
const LARGEST_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The other service answered, and not with a success.
    #[error("{service} answered {status}{}", .problem.as_ref().map(|problem| format!(" {}", problem.code)).unwrap_or_default())]
    Status {
        /// Whom we called.
        service: Arc<str>,
        /// Its status.
        status: StatusCode,
        /// Its problem document, if it sent one.
        problem: Option<Box<ProblemBody>>,
    },
    /// No answer: no connection, no token, broken off, or past the deadline. What was asked may have happened.
    #[error("{service} can't be reached")]
    Unreachable {
        /// Whom we called.
        service: Arc<str>,
        /// Why not.
        #[source]
        cause: anyhow::Error,
    },
    /// A success whose body is not what was expected.
    #[error("the answer of {service} can't be read")]
    Unreadable {
        /// Whom we called.
        service: Arc<str>,
        /// What is wrong with it.
        #[source]
        cause: anyhow::Error,
    },
}

impl ClientError {
    /// The status of the answer, if there was one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Unreachable { .. } | Self::Unreadable { .. } => None,
        }
    }

    /// The code of the problem, if there was one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Status { problem, .. } => problem.as_ref().map(|problem| problem.code.as_str()),
            Self::Unreachable { .. } | Self::Unreadable { .. } => None,
        }
    }

    /// Whether the other service is away or overloaded, so that a fallback or a later try makes sense.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Unreadable { .. } => false,
        }
    }
}

/// For calls whose failure the handler has no better word for: away is a 503, anything else our mistake.
impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        if error.is_away() {
            Self::unavailable("service that answers this", Duration::from_secs(1)).caused_by(error)
        } else {
            Self::internal(error)
        }
    }
}

/// Calls one other service; cheap to clone, one for each service called.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    service: Arc<str>,
    token: ServiceToken,
    deadline: Duration,
    budget: Arc<RetryBudget>,
    calls: IntCounterVec,
}

/// An answer with a success status.
#[derive(Debug)]
pub struct Answer {
    /// 2xx.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client of the service at `base_url`, such as `http://127.0.0.1:7020`.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(base_url: &str, token: ServiceToken, context: &Context) -> anyhow::Result<Self> {
        let url = url::Url::parse(base_url).with_context(|| format!("not a base URL: {base_url}"))?;
        let service = match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => anyhow::bail!("not a base URL with a host: {base_url}"),
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .user_agent(context.name)
            .build()
            .context("build an HTTP client")?;
        let help = "Calls to other services by outcome: ok, refused (4xx), failed (5xx), unreachable, retried.";
        let opts = Opts::new("kronos_client_calls_total", help).const_label("service", &service);
        let calls = IntCounterVec::new(opts, &["outcome"]).context("define a metric")?;
        if context.metrics.register(Box::new(calls.clone())).is_err() {
            tracing::warn!(service, "a second client of the same service: its calls are not counted, share the first");
        }
        Ok(Self {
            http,
            base: base_url.trim_end_matches('/').into(),
            service: service.into(),
            token,
            deadline: DEFAULT_DEADLINE,
            budget: Arc::default(),
            calls,
        })
    }

    /// The same client with another deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// `GET`; `path` begins with `/` and is already percent-encoded.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(self.send(Method::GET, path, None, &HeaderMap::new()).await?)
    }

    /// `POST`; retried only if it was never sent. Take `T = ()` for an empty answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.with_body(Method::POST, path, body).await
    }

    /// `PUT`. Take `T = ()` for an empty answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.with_body(Method::PUT, path, body).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, None, &HeaderMap::new()).await.map(|_| ())
    }

    async fn with_body<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.unreadable(error.into()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.read(self.send(method, path, Some(body.into()), &headers).await?)
    }

    fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, ClientError> {
        let body: &[u8] = if answer.body.is_empty() { b"null" } else { &answer.body };
        serde_json::from_slice(body).map_err(|error| self.unreadable(error.into()))
    }

    /// Any request with any body, under the same rules. `headers` may not set `Authorization`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<bytes::Bytes>,
        headers: &HeaderMap,
    ) -> Result<Answer, ClientError> {
        let call = self.attempts(&method, path, body, headers);
        let outcome = match tokio::time::timeout(self.deadline, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.unreachable(anyhow::anyhow!("no answer within {} ms", self.deadline.as_millis()))),
        };
        self.count(match &outcome {
            Ok(_) => "ok",
            Err(ClientError::Status { status, .. }) if status.is_client_error() => "refused",
            Err(ClientError::Status { .. } | ClientError::Unreadable { .. }) => "failed",
            Err(ClientError::Unreachable { .. }) => "unreachable",
        });
        outcome
    }

    async fn attempts(
        &self,
        method: &Method,
        path: &str,
        body: Option<bytes::Bytes>,
        headers: &HeaderMap,
    ) -> Result<Answer, ClientError> {
        self.budget.request();
        let (mut retries, mut renewed) = (0, false);
        loop {
            let token = self.token.get().await.map_err(|error| self.unreachable(error))?;
            let failure = match self.attempt(method, path, body.clone(), headers, &token).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            // Our token may have been revoked, or signed by a key that is no longer believed: once, with a new one.
            if failure.error.status() == Some(StatusCode::UNAUTHORIZED) && !renewed {
                renewed = true;
                self.token.refused(&token).await;
                continue;
            }
            let may = failure.never_sent || (method.is_idempotent() && failure.transient);
            if !may || retries == MOST_RETRIES || !self.budget.retry() {
                return Err(failure.error);
            }
            self.count("retried");
            let longest = FIRST_BACK_OFF * 2u32.pow(retries);
            tokio::time::sleep(longest.mul_f64(rand::random_range(0.5..1.5))).await;
            retries += 1;
        }
    }

    async fn attempt(
        &self,
        method: &Method,
        path: &str,
        body: Option<bytes::Bytes>,
        headers: &HeaderMap,
        token: &str,
    ) -> Result<Answer, Failure> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base)).headers(headers.clone());
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|error| Failure::fatal(self.unreachable(error.into())))?;
        bearer.set_sensitive(true);
        request = request.header(AUTHORIZATION, bearer);
        if let Some(context) = trace::current() {
            request = request.header(HeaderName::from_static(trace::TRACEPARENT), context.child().to_string());
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let mut response = request.send().await.map_err(|error| self.broken(error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error))? {
            if body.len() + chunk.len() > LARGEST_ANSWER_BYTES {
                return Err(Failure::fatal(self.unreadable(anyhow::anyhow!("the answer is too large"))));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Answer { status, headers, body });
        }
        let problem = serde_json::from_slice(&body).ok().map(Box::new);
        Err(Failure {
            error: ClientError::Status { service: Arc::clone(&self.service), status, problem },
            never_sent: false,
            transient: matches!(
                status,
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
            ),
        })
    }

    fn broken(&self, error: reqwest::Error) -> Failure {
        let (never_sent, bad_request) = (error.is_connect(), error.is_builder());
        // The URL may hold an id: it is in no log.
        let error = self.unreachable(error.without_url().into());
        Failure { error, never_sent, transient: !bad_request }
    }

    fn unreachable(&self, cause: anyhow::Error) -> ClientError {
        ClientError::Unreachable { service: Arc::clone(&self.service), cause }
    }

    fn unreadable(&self, cause: anyhow::Error) -> ClientError {
        ClientError::Unreadable { service: Arc::clone(&self.service), cause }
    }

    fn count(&self, outcome: &str) {
        self.calls.with_label_values(&[outcome]).inc();
    }
}

/// One failed attempt.
struct Failure {
    error: ClientError,
    /// Nothing of it reached the other side.
    never_sent: bool,
    /// The next try may be luckier.
    transient: bool,
}

impl Failure {
    fn fatal(error: ClientError) -> Self {
        Self { error, never_sent: false, transient: false }
    }
}

/// Keeps retries from making an overload worse: in ten seconds at most a fifth of the requests, and never fewer than three.
#[derive(Debug, Default)]
struct RetryBudget(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    began: Instant,
    requests: u32,
    retries: u32,
}

const WINDOW: Duration = Duration::from_secs(10);
const FEWEST_RETRIES: u32 = 3;

impl RetryBudget {
    fn request(&self) {
        self.in_window(|window| window.requests = window.requests.saturating_add(1));
    }

    /// Takes one retry, if there is one left.
    fn retry(&self) -> bool {
        self.in_window(|window| {
            let may = window.retries < FEWEST_RETRIES.max(window.requests / 5);
            window.retries += u32::from(may);
            may
        })
    }

    fn in_window<T>(&self, act: impl FnOnce(&mut Window) -> T) -> T {
        let mut slot = self.0.lock().expect("no holder panics");
        if slot.as_ref().is_some_and(|window| window.began.elapsed() > WINDOW) {
            *slot = None;
        }
        act(slot.get_or_insert_with(|| Window { began: Instant::now(), requests: 0, retries: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_many_requests_may_be_retried_and_three_of_few() {
        let few = RetryBudget::default();
        few.request();
        assert_eq!((0..10).filter(|_| few.retry()).count(), 3);
        let many = RetryBudget::default();
        (0..100).for_each(|_| many.request());
        assert_eq!((0..100).filter(|_| many.retry()).count(), 20);
    }
}
