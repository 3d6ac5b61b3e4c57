//! `GET /logs/tail`: lines as they are kept, as server-sent events (WHATWG HTML, section 9.2).

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::{Stream, StreamExt as _, stream};
use kronos_common::{
    extract::Query,
    identity::{Allowed, Verifier, permission::presented},
    problem::{Problem, ProblemBody, Result},
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::{
    CanReadLogs,
    search::{Conditions, LogItem, bad},
};
use crate::{
    App,
    jobs::tail::{Subscription, Tails},
    line::Line,
    merge::{Found, OWN},
};

const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How soon a tail ends after its token.
const CHECK_EVERY: Duration = Duration::from_millis(250);

/// The query of a tail.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct TailLogs {
    /// As in a search.
    q: Option<String>,
    /// One or several, by commas.
    service: Option<String>,
    /// One or several, by commas.
    level: Option<String>,
    trace_id: Option<String>,
}

/// Follow log lines live
///
/// Each event's data is a line, its id the line's place: send it back as `Last-Event-ID` to go on from there. `event: dropped`
/// with `{"dropped": n}` tells a reader who was too slow, or away for too long, how many lines it was not shown. The stream
/// ends with the token: come back with a new one and `Last-Event-ID`.
#[utoipa::path(
    get, path = "/logs/tail", tag = "log-service", security(("bearer" = [])),
    params(TailLogs, ("Last-Event-ID" = Option<String>, Header, description = "go on after this line")),
    responses(
        (status = 200, content_type = "text/event-stream", body = String), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 429, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn tail_logs(
    State(app): State<App>,
    _: Allowed<CanReadLogs>,
    headers: HeaderMap,
    Query(asked): Query<TailLogs>,
) -> Result<Response> {
    let conditions = Conditions {
        q: asked.q.as_deref(),
        service: asked.service.as_deref(),
        level: asked.level.as_deref(),
        trace_id: asked.trace_id.as_deref(),
        ..Conditions::default()
    };
    let filter = conditions.filter()?;
    let resume = last_event_id(&headers)?;
    let full =
        |_| Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_tails", "too many tails are open: close one or wait");
    let subscription = app.tails.subscribe(filter.clone()).await.map_err(full)?;
    let (dropped, missed) = match resume {
        Some(seq) => app.tails.replay(&filter, seq, subscription.position).await?,
        None => (0, Vec::new()),
    };
    let gap = (dropped > 0).then(|| dropped_event(u64::try_from(dropped).unwrap_or(0)));
    let missed = missed.into_iter().map(|line| line_event(&line));
    let replayed = stream::iter(gap.into_iter().chain(missed));
    let end = ended(app.verifier, presented(&headers)?.1.to_owned(), app.shutdown);
    let events = replayed.chain(live(app.tails, subscription)).map(Ok::<_, Infallible>).take_until(Box::pin(end));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let response = Sse::new(events).keep_alive(keep_alive).into_response();
    // A buffering proxy would hold the lines back.
    Ok(([("x-accel-buffering", "no")], response).into_response())
}

/// When the token has ended or was revoked, or the service ends.
async fn ended(verifier: Verifier, token: String, shutdown: CancellationToken) {
    while tokio::time::timeout(CHECK_EVERY, shutdown.cancelled()).await.is_err() {
        if verifier.inspect(&token).await.is_err_and(|problem| problem.status() == StatusCode::UNAUTHORIZED) {
            return;
        }
    }
}

fn live(tails: Tails, subscription: Subscription) -> impl Stream<Item = Event> {
    stream::unfold((tails, subscription), |(tails, mut subscription)| async move {
        loop {
            let event = match subscription.lines.recv().await {
                Ok(line) if line.seq <= subscription.position => continue,
                Ok(line) => line_event(&line),
                Err(RecvError::Lagged(count)) => {
                    tails.count_dropped(count);
                    dropped_event(count)
                }
                Err(RecvError::Closed) => return None,
            };
            return Some((event, (tails, subscription)));
        }
    })
}

fn line_event(line: &Line) -> Event {
    let item = LogItem::from(Found { source: OWN.to_owned(), line: line.clone() });
    let data = serde_json::to_string(&item).expect("a log line serialises");
    Event::default().id(line.seq.to_string()).data(data)
}

fn dropped_event(count: u64) -> Event {
    Event::default().event("dropped").data(json!({ "dropped": count }).to_string())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let seq = value.to_str().ok().and_then(|text| text.parse::<i64>().ok()).filter(|seq| *seq >= 0);
    seq.map(Some).ok_or_else(|| bad("Last-Event-ID: the id of an event of this stream"))
}
