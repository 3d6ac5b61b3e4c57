//! The gateway's administration, as far as `up` and `scale` need it: log in, say where a service's instances are, and see
//! whether it has declared its permissions.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// A caller with an administrator's token.
pub(super) struct Gateway {
    base: String,
    token: String,
    agent: ureq::Agent,
}

impl Gateway {
    pub(super) fn login(base: &str, username: &str, password: &str) -> anyhow::Result<Self> {
        // Statuses are answers here: a problem's words are worth showing.
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(10)));
        let mut gateway = Self { base: base.to_owned(), token: String::new(), agent: config.build().into() };
        let body = json!({ "username": username, "password": password });
        let answer = gateway.agent.post(format!("{base}/auth/login")).send_json(body);
        let (_, answer) = read(answer, "POST /auth/login")?;
        answer["accessToken"].as_str().context("POST /auth/login: no accessToken")?.clone_into(&mut gateway.token);
        Ok(gateway)
    }

    /// Replaces the instances of the upstream that has the service's name.
    pub(super) fn set_instances(&self, service: &str, urls: &[String]) -> anyhow::Result<()> {
        let id = self.upstream_id(service)?;
        let path = format!("/upstreams/{id}");
        let (etag, mut upstream) = self.get(&path)?;
        upstream["instances"] = urls.iter().map(|url| json!({ "url": url })).collect();
        let mut request = self.agent.put(format!("{}{path}", self.base)).header("authorization", self.bearer());
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        read(request.send_json(upstream), &format!("PUT {path}")).map(|_| ())
    }

    /// Whether roles can grant what the service asks for.
    pub(super) fn has_permissions_of(&self, service: &str) -> anyhow::Result<bool> {
        let (_, page) = self.get(&format!("/permissions?service={service}&limit=1"))?;
        Ok(page["items"].as_array().is_some_and(|items| !items.is_empty()))
    }

    fn upstream_id(&self, name: &str) -> anyhow::Result<String> {
        let mut cursor = String::new();
        loop {
            let (_, page) = self.get(&format!("/upstreams?limit=200{cursor}"))?;
            let items = page["items"].as_array().context("GET /upstreams: no items")?;
            if let Some(found) = items.iter().find(|item| item["name"] == name) {
                return Ok(found["id"].as_str().context("GET /upstreams: no id")?.to_owned());
            }
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => bail!("the gateway has no upstream {name}"),
            }
        }
    }

    fn get(&self, path: &str) -> anyhow::Result<(Option<String>, Value)> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", self.bearer());
        read(request.call(), &format!("GET {path}"))
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }
}

/// ETag and body of a good answer; a problem becomes an error in its own words.
fn read(
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    call: &str,
) -> anyhow::Result<(Option<String>, Value)> {
    let mut answer = answer.with_context(|| call.to_owned())?;
    let etag = answer.headers().get("etag").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let status = answer.status();
    let text = answer.body_mut().read_to_string().with_context(|| call.to_owned())?;
    if !status.is_success() {
        bail!("{call}: {status}: {}", text.trim());
    }
    let body =
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).with_context(|| call.to_owned())? };
    Ok((etag, body))
}
