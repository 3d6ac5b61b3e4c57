//! `GET /logs`: search in our own lines and in those of other systems, one time-ordered answer.

use std::time::Duration;

use axum::{extract::State, http::HeaderMap};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Query},
    identity::Allowed,
    page::Cursor,
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::CanReadLogs;
use crate::{
    App,
    line::Level,
    merge::{Found, OWN, Position},
    query::{self, Filter},
    store::{
        Order,
        federated::{FindError, Others, Page, SourceReport, Watermark},
        remote::{FEDERATED, Question},
    },
};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// The conditions that search and tail share.
#[derive(Debug, Default)]
pub(super) struct Conditions<'a> {
    pub(super) q: Option<&'a str>,
    pub(super) service: Option<&'a str>,
    pub(super) level: Option<&'a str>,
    pub(super) trace_id: Option<&'a str>,
    pub(super) from: Option<&'a str>,
    pub(super) to: Option<&'a str>,
}

/// The query of a search.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct FindLogs {
    /// Words, `"phrases"`, `begin*`, `name:value`, `level:>=warn`, AND, OR, NOT or `-`, parentheses.
    q: Option<String>,
    /// One or several, by commas.
    service: Option<String>,
    /// One or several, by commas.
    level: Option<String>,
    trace_id: Option<String>,
    /// From this time on: RFC 3339, or back from now, such as `-15m` (s, m, h, d).
    from: Option<String>,
    /// Before this time.
    to: Option<String>,
    /// 1 to 1000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// `newest` first (default) or `oldest` first.
    order: Option<String>,
    /// Which registered sources are asked beside Kronos itself, by commas; `kronos`: none; absent: all.
    sources: Option<String>,
}

/// A page of log lines.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FoundLogs {
    items: Vec<LogItem>,
    /// Absent on the last page.
    #[schema(value_type = Option<String>)]
    next_cursor: Option<Cursor>,
    /// Elasticsearch did not answer, or is too far behind: PostgreSQL answered.
    degraded: bool,
    watermark: Watermark,
    sources: Vec<SourceReport>,
}

/// A log line.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogItem {
    id: String,
    timestamp: DateTime<Utc>,
    received_at: DateTime<Utc>,
    service: String,
    #[schema(value_type = String)]
    level: Level,
    message: String,
    #[schema(value_type = Object)]
    attributes: Map<String, Value>,
    trace_id: Option<String>,
    /// Its place in the order of arrival; 0 for lines of other systems.
    seq: i64,
    /// `kronos` or the registered source that gave it.
    source: String,
}

/// Search log lines
///
/// Newest first. `degraded` says that Elasticsearch did not answer, `watermark` up to where the answer is complete, and
/// `sources` which system gave how much, or why it gave nothing.
#[utoipa::path(
    get, path = "/logs", tag = "log-service", security(("bearer" = [])), params(FindLogs),
    responses(
        (status = 200, body = FoundLogs), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn find_logs(
    State(app): State<App>,
    _: Allowed<CanReadLogs>,
    headers: HeaderMap,
    Query(asked): Query<FindLogs>,
) -> Result<Json<FoundLogs>> {
    let others = asked.others(&headers);
    let question = asked.question()?;
    let page = app.finder.find(question, others).await.map_err(|error| match error {
        FindError::Unavailable => Problem::unavailable("log store", Duration::from_secs(2)),
        FindError::UnknownSource(name) => bad(format!("sources: there is no source {name}")),
    })?;
    Ok(Json(page.into()))
}

impl FindLogs {
    fn others(&self, headers: &HeaderMap) -> Others {
        if headers.contains_key(FEDERATED) {
            return Others::Named(Vec::new());
        }
        match &self.sources {
            None => Others::All,
            Some(names) => Others::Named(list(names).filter(|name| name != OWN).collect()),
        }
    }

    fn question(self) -> Result<Question> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(bad(format!("limit: from 1 to {MAX_LIMIT}")));
        }
        let order = match self.order.as_deref() {
            None | Some("newest") => Order::Newest,
            Some("oldest") => Order::Oldest,
            Some(_) => return Err(bad("order: newest or oldest")),
        };
        let after: Option<Position> = self.cursor.map(|cursor| cursor.decode()).transpose()?;
        if after.as_ref().is_some_and(|after| after.oldest_first != (order == Order::Oldest)) {
            return Err(bad("cursor: it belongs to the other order"));
        }
        let conditions = Conditions {
            q: self.q.as_deref(),
            service: self.service.as_deref(),
            level: self.level.as_deref(),
            trace_id: self.trace_id.as_deref(),
            from: self.from.as_deref(),
            to: self.to.as_deref(),
        };
        let filter = conditions.filter()?;
        let parameters = [("q", self.q), ("service", self.service), ("level", self.level), ("traceId", self.trace_id)];
        let parameters = parameters.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect();
        Ok(Question { parameters, filter, order, after, limit: limit as usize })
    }
}

impl Conditions<'_> {
    /// The filter that they are together.
    pub(super) fn filter(&self) -> Result<Filter> {
        let query = query::parse(self.q.unwrap_or_default()).map_err(|error| bad(format!("q: {error}")))?;
        let services: Vec<String> = self.service.map(|names| list(names).collect()).unwrap_or_default();
        let levels = self.level.map(|names| list(names).map(|name| name.parse::<Level>()).collect()).transpose();
        let levels: Vec<Level> = levels.map_err(|error| bad(format!("level: {error}")))?.unwrap_or_default();
        let now = Utc::now();
        let time = |name, text: Option<&str>| text.map(|text| time_of(name, text, now)).transpose();
        let (from, to) = (time("from", self.from)?, time("to", self.to)?);
        Ok(Filter::new(query, &services, &levels, self.trace_id, from, to))
    }
}

fn list(names: &str) -> impl Iterator<Item = String> + '_ {
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned)
}

fn time_of(name: &str, text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    let expected = || bad(format!("{name}: RFC 3339, such as 2026-01-31T12:00:00Z, or back from now, such as -15m"));
    if let Some(back) = text.strip_prefix('-') {
        let (number, unit) = back.split_at(back.len() - back.chars().last().map_or(0, char::len_utf8));
        let number: u32 = number.parse().map_err(|_| expected())?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(expected()),
        };
        let back = chrono::Duration::seconds(i64::from(number) * seconds);
        return now.checked_sub_signed(back).ok_or_else(expected);
    }
    // A `+` of an offset that was not escaped arrives as a blank.
    let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+")).map_err(|_| expected())?;
    Ok(time.with_timezone(&Utc))
}

pub(super) fn bad(detail: impl Into<String>) -> Problem {
    Problem::bad_request("invalid_query", detail)
}

impl From<Page> for FoundLogs {
    fn from(page: Page) -> Self {
        Self {
            items: page.items.into_iter().map(LogItem::from).collect(),
            next_cursor: page.next.as_ref().map(Cursor::encode),
            degraded: page.degraded,
            watermark: page.watermark,
            sources: page.sources,
        }
    }
}

impl From<Found> for LogItem {
    fn from(found: Found) -> Self {
        let line = found.line;
        Self {
            id: line.id,
            timestamp: line.occurred_at,
            received_at: line.received_at,
            service: line.service,
            level: line.level,
            message: line.message,
            attributes: line.attributes,
            trace_id: line.trace_id,
            seq: line.seq,
            source: found.source,
        }
    }
}
