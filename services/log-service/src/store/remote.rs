//! Other systems' log interfaces: `GET {url}/logs?…` with a deadline and a bounded answer. What they send is checked like
//! any line: filtered again, redacted again.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, SubsecRound as _, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

use super::Order;
use crate::{
    config,
    line::{Level, Line},
    merge::{Found, Position},
    query::Filter,
    redact, terms,
};

/// Tells the asked system not to ask others in turn, so that no question goes in circles.
pub const FEDERATED: &str = "kronos-federated";

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Remote {
    pub name: String,
    pub url: String,
    pub token: Option<SecretString>,
}

/// The question, as the caller put it.
#[derive(Debug, Clone)]
pub struct Question {
    /// The parameters that are handed on as they are.
    pub parameters: Vec<(&'static str, String)>,
    pub filter: Filter,
    pub order: Order,
    pub after: Option<Position>,
    pub limit: usize,
}

/// What came of asking.
#[derive(Debug)]
pub struct Answer {
    pub lines: Vec<Found>,
    pub status: Status,
    pub detail: Option<String>,
    pub took: Duration,
}

/// How a source did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// All is there.
    Ok,
    /// It sent lines that were not asked for, so there may be more that fit.
    Partial,
    /// No answer before the deadline.
    Timeout,
    /// No connection.
    Unreachable,
    /// It answered with 4xx.
    Refused,
    /// It answered with 5xx.
    Failed,
    /// It answered with something else than log lines.
    Invalid,
}

/// A line of another system: as Kronos's own, and forgiving.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RemoteLine {
    timestamp: DateTime<Utc>,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    attributes: Option<Map<String, Value>>,
    #[serde(default)]
    trace_id: Option<String>,
    #[serde(default)]
    id: Option<Value>,
}

/// The HTTP client for other systems: no redirects, since the address was checked and its target would not be.
///
/// # Errors
/// The client can't be made.
pub fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).pool_max_idle_per_host(8).build()?)
}

/// Asks one.
pub async fn ask(http: &reqwest::Client, config: &config::Sources, remote: &Remote, question: &Question) -> Answer {
    let begun = Instant::now();
    let deadline = Duration::from_millis(config.timeout_ms);
    let asked = tokio::time::timeout(deadline, fetch(http, config, remote, question)).await;
    let (lines, status, detail) = match asked {
        Ok(Ok((lines, Status::Ok))) => (lines, Status::Ok, None),
        Ok(Ok((lines, status))) => {
            (lines, status, Some("it sent lines that do not fit, more may be behind them".into()))
        }
        Ok(Err((status, detail))) => (Vec::new(), status, Some(detail)),
        Err(_) => (Vec::new(), Status::Timeout, Some(format!("no answer within {} ms", config.timeout_ms))),
    };
    Answer { lines, status, detail, took: begun.elapsed() }
}

type Fetched = Result<(Vec<Found>, Status), (Status, String)>;

async fn fetch(http: &reqwest::Client, config: &config::Sources, remote: &Remote, question: &Question) -> Fetched {
    let mut request = http.get(address(remote, question)?).header(FEDERATED, "1").header("accept", "application/json");
    if let Some(token) = &remote.token {
        request = request.bearer_auth(token.expose_secret());
    }
    let mut response = request.send().await.map_err(|error| {
        let status = if error.is_timeout() { Status::Timeout } else { Status::Unreachable };
        (status, "the connection failed".to_owned())
    })?;
    let code = response.status();
    if !code.is_success() {
        let status = if code.is_client_error() { Status::Refused } else { Status::Failed };
        return Err((status, format!("it answered {}", code.as_u16())));
    }
    let mut body = Vec::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|_| (Status::Unreachable, "the answer broke off".to_owned()))?
    {
        if body.len() + chunk.len() > config.max_response_bytes {
            return Err((Status::Invalid, format!("the answer is longer than {} bytes", config.max_response_bytes)));
        }
        body.extend_from_slice(&chunk);
    }
    let items = items(&body).ok_or_else(|| (Status::Invalid, "the answer is not a list of log lines".to_owned()))?;
    let full = items.len() >= question.limit;
    let given = items.len();
    let lines: Vec<Found> = items
        .into_iter()
        .filter_map(|item| serde_json::from_value::<RemoteLine>(item).ok())
        .map(|line| Found { source: remote.name.clone(), line: line.into_line(&remote.name) })
        .filter(|found| question.filter.matches(&found.line))
        .collect();
    let status = if full && lines.len() < given { Status::Partial } else { Status::Ok };
    Ok((lines, status))
}

fn address(remote: &Remote, question: &Question) -> Result<Url, (Status, String)> {
    let mut url = Url::parse(&format!("{}/logs", remote.url.trim_end_matches('/')))
        .map_err(|_| (Status::Unreachable, "its url is not one".to_owned()))?;
    let (mut from, mut to) = (question.filter.from, question.filter.to);
    // At the time of the place, this source may have lines on either side of it: they are sorted out after the answer.
    if let Some(time) = question.after.as_ref().and_then(Position::time) {
        match question.order {
            Order::Newest => to = Some(time + chrono::Duration::microseconds(1)),
            Order::Oldest => from = Some(time),
        }
    }
    {
        let mut query = url.query_pairs_mut();
        for (name, value) in &question.parameters {
            query.append_pair(name, value);
        }
        for (name, time) in [("from", from), ("to", to)] {
            if let Some(time) = time {
                query.append_pair(name, &time.to_rfc3339_opts(SecondsFormat::Micros, true));
            }
        }
        if question.order == Order::Oldest {
            query.append_pair("order", "oldest");
        }
        query.append_pair("limit", &question.limit.to_string());
    }
    Ok(url)
}

/// `{"items": […]}` or the bare list.
fn items(body: &[u8]) -> Option<Vec<Value>> {
    match serde_json::from_slice(body).ok()? {
        Value::Array(items) => Some(items),
        Value::Object(mut map) => match map.remove("items")? {
            Value::Array(items) => Some(items),
            _ => None,
        },
        _ => None,
    }
}

impl RemoteLine {
    fn into_line(self, source: &str) -> Line {
        let attributes = redact::attributes(self.attributes.unwrap_or_default());
        let message = redact::message(&self.message.unwrap_or_default());
        let service = self.service.unwrap_or_else(|| source.to_owned());
        let id = match self.id {
            Some(Value::String(id)) => id,
            Some(Value::Null) | None => {
                // The same line has the same name on every page.
                let text = format!("{}\n{service}\n{message}", self.timestamp.timestamp_micros());
                crate::line::key_of(source, &text).to_string()
            }
            Some(other) => other.to_string(),
        };
        let occurred_at = self.timestamp.trunc_subsecs(6);
        Line {
            seq: 0,
            key: Uuid::nil(),
            named: true,
            id,
            occurred_at,
            received_at: occurred_at,
            level: self.level.and_then(|level| level.parse().ok()).unwrap_or(Level::Info),
            terms: terms::of(&message, &attributes),
            service,
            message,
            attributes,
            trace_id: self.trace_id,
        }
    }
}
