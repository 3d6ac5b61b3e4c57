//! A small HTTP client for tests: requests are awaited directly, answers are whole, and a wrong status panics with the body.

use std::{fmt, future::IntoFuture, net::SocketAddr, pin::Pin, time::Duration};

use axum::http::{HeaderMap, Method};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// How long a whole answer may take unless a test says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of the service at this address.
pub fn http(address: SocketAddr) -> TestClient {
    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("build an HTTP client");
    TestClient { http, base: format!("http://{address}"), token: None }
}

/// Sends requests to one service.
#[derive(Debug, Clone)]
pub struct TestClient {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl TestClient {
    /// The same client with a token on every request that sets no other.
    pub fn bearer(&self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> TestRequest {
        self.request(Method::GET, path)
    }

    /// `POST` with a JSON body.
    pub fn post(&self, path: &str, body: &(impl Serialize + ?Sized)) -> TestRequest {
        self.request(Method::POST, path).json(body)
    }

    /// `PUT` with a JSON body.
    pub fn put(&self, path: &str, body: &(impl Serialize + ?Sized)) -> TestRequest {
        self.request(Method::PUT, path).json(body)
    }

    /// `PATCH` with a JSON body.
    pub fn patch(&self, path: &str, body: &(impl Serialize + ?Sized)) -> TestRequest {
        self.request(Method::PATCH, path).json(body)
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> TestRequest {
        self.request(Method::DELETE, path)
    }

    /// Any method, no body yet.
    pub fn request(&self, method: Method, path: &str) -> TestRequest {
        let request = self.http.request(method, format!("{}{path}", self.base));
        TestRequest { request, token: self.token.clone(), patience: PATIENCE }
    }
}

/// A request; await it to send it.
#[derive(Debug)]
#[must_use = "await it to send it"]
pub struct TestRequest {
    request: reqwest::RequestBuilder,
    token: Option<String>,
    patience: Duration,
}

impl TestRequest {
    /// This token instead of the client's.
    pub fn bearer(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// No token, even if the client has one.
    pub fn anonymous(mut self) -> Self {
        self.token = None;
        self
    }

    /// A header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.request = self.request.header(name, value.as_ref());
        self
    }

    /// A JSON body.
    pub fn json(mut self, body: &(impl Serialize + ?Sized)) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// A form body.
    pub fn form(mut self, body: &(impl Serialize + ?Sized)) -> Self {
        self.request = self.request.form(body);
        self
    }

    /// Any body.
    pub fn body(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// How long the whole answer may take.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends it and hands back the answer as it comes, for streams: it may take as long as it likes.
    pub async fn stream(self) -> reqwest::Response {
        let request = match self.token {
            Some(token) => self.request.bearer_auth(token),
            None => self.request,
        };
        request.send().await.expect("the service answers")
    }
}

impl IntoFuture for TestRequest {
    type Output = TestResponse;
    type IntoFuture = Pin<Box<dyn Future<Output = TestResponse> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let timed = Self { request: self.request.timeout(self.patience), ..self };
            let response = timed.stream().await;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.bytes().await.expect("the answer is complete").to_vec();
            TestResponse { status, headers, body }
        })
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct TestResponse {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl TestResponse {
    /// Panics with the whole answer if the status is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Panics if this is not a problem document with this status and code.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self}");
        self
    }

    /// The body as JSON; panics if it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.read()
    }

    /// The body as a type; panics if it is none.
    #[track_caller]
    pub fn read<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The problem's code; empty if the answer is no problem.
    pub fn code(&self) -> String {
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        body.and_then(|body| body["code"].as_str().map(Into::into)).unwrap_or_default()
    }

    /// A header's value, if it is there and plain text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl fmt::Display for TestResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text())
    }
}
