//! A caller of the gateway: a token, JSON in and out, and errors that say which call failed.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

/// How often a caller tries again when it is told that the platform is busy.
const BUSY_RETRIES: usize = 5;

/// Where a platform is and who may call it: the part of `cargo xtask status --json` that a caller needs.
#[derive(Debug, Clone, Deserialize)]
pub struct Target {
    /// Base URL of the gateway.
    pub gateway: String,
    /// The first administrator.
    pub admin: Admin,
    /// OAuth clients by name.
    pub clients: BTreeMap<String, Credentials>,
}

/// A user's credentials.
#[derive(Debug, Clone, Deserialize)]
pub struct Admin {
    /// Login name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// An OAuth client's credentials.
#[derive(Debug, Clone, Deserialize)]
pub struct Credentials {
    /// Client id.
    pub id: String,
    /// Client secret.
    pub secret: String,
}

/// One caller with its token.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    gateway: String,
    token: Option<String>,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What was called, for messages.
    pub call: String,
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body if it is JSON, else null.
    pub json: Value,
}

impl Answer {
    /// The JSON body of an expected answer.
    ///
    /// # Errors
    /// Another status; the message shows the problem.
    pub fn expect(self, status: u16) -> anyhow::Result<Value> {
        ensure!(self.status == status, "{}: expected {status}, got {}: {}", self.call, self.status, self.json);
        Ok(self.json)
    }

    /// An expected refusal.
    ///
    /// # Errors
    /// Another status or code.
    pub fn refused(self, status: u16, code: &str) -> anyhow::Result<()> {
        ensure!(
            self.status == status && self.json["code"] == code,
            "{}: expected {status} {code}, got {}: {}",
            self.call,
            self.status,
            self.json
        );
        Ok(())
    }

    /// How long the platform asks to wait before another try; a second if it does not say.
    pub fn retry_after(&self) -> Duration {
        let header = self.headers.get(reqwest::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        Duration::from_secs(header.and_then(|text| text.parse().ok()).unwrap_or(1))
    }

    /// A text member of the body.
    ///
    /// # Errors
    /// It is not there.
    pub fn text(&self, member: &str) -> anyhow::Result<String> {
        text(&self.json, member)
    }
}

/// A text member of a JSON object.
///
/// # Errors
/// It is not there.
pub fn text(value: &Value, member: &str) -> anyhow::Result<String> {
    value[member].as_str().map(str::to_owned).with_context(|| format!("no text `{member}` in {value}"))
}

impl Api {
    /// A caller without a token.
    ///
    /// # Errors
    /// The HTTP client can't be made.
    pub fn anonymous(target: &Target) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_secs(60))
            .build()
            .context("make an HTTP client")?;
        Ok(Self { http, gateway: target.gateway.trim_end_matches('/').to_owned(), token: None })
    }

    /// A person.
    ///
    /// # Errors
    /// The login is refused.
    pub async fn login(target: &Target, username: &str, password: &str) -> anyhow::Result<Self> {
        let anonymous = Self::anonymous(target)?;
        let body = json!({ "username": username, "password": password });
        let tokens = anonymous.post("/auth/login", &body).await?.expect(200)?;
        Ok(anonymous.with_token(text(&tokens, "accessToken")?))
    }

    /// The administrator.
    ///
    /// # Errors
    /// The login is refused.
    pub async fn administrator(target: &Target) -> anyhow::Result<Self> {
        Self::login(target, &target.admin.username, &target.admin.password).await
    }

    /// A system of the ecosystem, by its client credentials.
    ///
    /// # Errors
    /// There is no such client, or it is refused.
    pub async fn client(target: &Target, name: &str) -> anyhow::Result<Self> {
        let credentials = target.clients.get(name).with_context(|| format!("no client {name}"))?;
        let anonymous = Self::anonymous(target)?;
        let response = anonymous
            .http
            .post(format!("{}/oauth/token", anonymous.gateway))
            .basic_auth(&credentials.id, Some(&credentials.secret))
            .form(&[("grant_type", "client_credentials")])
            .send()
            .await
            .context("POST /oauth/token")?;
        let answer = read("POST /oauth/token".to_owned(), response).await?.expect(200)?;
        Ok(anonymous.with_token(text(&answer, "access_token")?))
    }

    /// The same caller with another token.
    #[must_use]
    pub fn with_token(&self, token: String) -> Self {
        Self { token: Some(token), ..self.clone() }
    }

    /// The token, for a client of another kind; empty without one.
    #[must_use]
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// The same caller at another address, such as a service's own.
    #[must_use]
    pub fn at(&self, base_url: String) -> Self {
        Self { gateway: base_url, ..self.clone() }
    }

    /// A request to be refined.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.gateway));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// GET.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, None).await
    }

    /// POST.
    ///
    /// # Errors
    /// No answer.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// PUT.
    ///
    /// # Errors
    /// No answer.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::PUT, path, Some(body)).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// No answer.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let call = format!("{method} {path}");
        for _ in 0..BUSY_RETRIES {
            let answer = self.send_once(&call, &method, path, body).await?;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return Ok(answer);
            }
            // Nothing was done: a caller waits as it is told, and tries again.
            tokio::time::sleep(answer.retry_after()).await;
        }
        self.send_once(&call, &method, path, body).await
    }

    async fn send_once(&self, call: &str, method: &Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let mut request = self.request(method.clone(), path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| call.to_owned())?;
        read(call.to_owned(), response).await
    }
}

/// Reads an answer whole.
///
/// # Errors
/// The body breaks off.
pub async fn read(call: String, response: reqwest::Response) -> anyhow::Result<Answer> {
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.with_context(|| format!("{call}: read the answer"))?;
    Ok(Answer { call, status, headers, json: serde_json::from_slice(&body).unwrap_or_default() })
}
