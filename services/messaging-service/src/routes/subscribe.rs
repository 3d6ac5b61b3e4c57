//! `GET /subscribe/{topic}`: messages as server-sent events (WHATWG HTML, section 9.2), over a WebSocket, or by long poll.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use chrono::Utc;
use futures::{Stream, stream};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Caller,
    problem::{OnConstraint as _, Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{CanSubscribe, on_topic::On, websocket};
use crate::{
    App, bridge, catalog,
    hub::Subscription,
    listener::{Listener, Tailed},
    store::Position,
    topic::{Group, Kind, Name, QUEUE_GROUP, Topic},
};

/// How often a stream's token is looked at again: it may have ended or been revoked.
pub(super) const TOKEN_LOOK: Duration = Duration::from_secs(1);
/// Most messages of one poll, and the largest window.
const MOST: usize = 500;
/// Messages of one poll unless it asks otherwise.
const POLL: usize = 10;
/// After the first message of a poll, how long others may follow.
const GATHER: Duration = Duration::from_millis(5);

/// How to subscribe.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct SubscribeQuery {
    /// Subscribers of one group share its messages and acknowledge them. A queue is one group, whatever is said here.
    #[param(value_type = Option<String>)]
    group: Option<Name>,
    /// `sse` (default) or `poll`. A request to upgrade to a WebSocket needs none.
    mode: Option<Mode>,
    /// SSE and WebSocket: how many unacknowledged messages at a time. Poll: how many at most.
    #[param(minimum = 1, maximum = 500)]
    max: Option<usize>,
    /// Poll: how long to wait for the first message, in milliseconds.
    #[param(minimum = 0)]
    wait_ms: Option<u64>,
    /// Streams: where a new group, or a subscriber without one, begins. A group by default `earliest`, others `latest`.
    from: Option<From>,
    /// Without group: go on after this event, as with the header `Last-Event-ID`.
    last_event_id: Option<String>,
    /// WebSocket: how many messages may be sent until a `credit` frame allows more.
    credit: Option<u64>,
}

/// How messages are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Sse,
    Poll,
}

/// Where in a stream to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    Earliest,
    Latest,
}

/// What a poll gives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Polled {
    /// `messageId`, `deliveryId`, `topic`, `group`, `key`, `payload`, `headers`, `attempt`, `publishedAt`, `leaseExpiresAt`.
    #[schema(value_type = Vec<serde_json::Value>)]
    messages: Vec<Box<RawValue>>,
}

/// Subscribe to a topic
///
/// Each event's data is one message. Without group, its `id` is where to go on, with `Last-Event-ID`, at any instance;
/// `event: gap` tells that messages may be missing. Without messages there is a comment now and then; the last comment says
/// why the stream ends.
///
/// A WebSocket gets `{"type":"message", …}` and may send `{"type":"ack","id"}`, `{"type":"retry","id","delayMs"?,"reason"?}`,
/// `{"type":"extend","id","leaseMs"?}` and `{"type":"credit","messages"}`.
#[utoipa::path(
    get, path = "/subscribe/{topic}", tag = "messaging-service", security(("bearer" = [])),
    params(("topic" = String, Path), SubscribeQuery, ("Last-Event-ID" = Option<String>, Header, description = "an event's id")),
    responses(
        (status = 101, description = "a WebSocket"),
        (status = 200, description = "`text/event-stream`, or with mode=poll JSON", body = Polled),
        (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn subscribe(
    State(app): State<App>,
    on: On<CanSubscribe>,
    Path(name): Path<String>,
    Query(query): Query<SubscribeQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
) -> Result<Response> {
    let upgrade = match upgrade {
        Err(rejection) if headers.contains_key(header::SEC_WEBSOCKET_KEY) => {
            return Err(Problem::bad_request("invalid_upgrade", rejection.to_string()));
        }
        upgrade => upgrade.ok(),
    };
    let caller = on.topic(&app, &name).await?;
    let topic = app.catalog.find(&name).await?;
    bridge::may_read(caller, &topic.name)?;
    if query.max.is_some_and(|max| !(1..=MOST).contains(&max)) {
        return Err(Problem::bad_request("invalid_query", format!("max is 1 to {MOST}")));
    }
    if query.from.is_some() && topic.kind != Kind::Stream {
        return Err(Problem::bad_request("invalid_query", "only streams can be read from a place: leave `from` out"));
    }
    let group = group(&app, &topic, &query).await?;
    if query.mode == Some(Mode::Poll) && upgrade.is_none() {
        let group = group.ok_or_else(|| {
            let detail = "without a group nobody keeps what comes between two polls: pass ?group=";
            Problem::bad_request("group_required", detail)
        })?;
        return poll(&app, &topic, &group, caller, &query).await;
    }
    let seat = Seat::take(&app, caller.clone())?;
    let source = match group {
        Some(group) => share(&app, &topic, &group, &seat, &query).await?,
        None => {
            let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
            listen(&app, &topic, &query, query.last_event_id.as_deref().or(last)).await?
        }
    };
    Ok(match upgrade {
        Some(upgrade) => websocket::respond(upgrade, seat, source, query.credit),
        None => respond(&app, seat, source),
    })
}

/// The group that is asked for, made if it is new; `None`: without group.
async fn group(app: &App, topic: &Arc<Topic>, query: &SubscribeQuery) -> Result<Option<Group>> {
    let name = match (topic.kind, &query.group) {
        (Kind::Queue, _) => QUEUE_GROUP,
        (_, Some(name)) => name.as_str(),
        (_, None) => return Ok(None),
    };
    if let Some(group) = app.store.group(topic, name).await? {
        return Ok(Some(group));
    }
    let group = Group { group_id: Uuid::now_v7(), topic_id: topic.topic_id, name: name.to_owned() };
    let away =
        |broker| move |error: anyhow::Error| Problem::unavailable(broker, Duration::from_secs(2)).caused_by(error);
    let positions: Vec<Position> = match topic.kind {
        Kind::Stream if query.from == Some(From::Latest) => {
            app.publisher.kafka.ends(topic).await.map_err(away("stream broker (Kafka)"))?
        }
        Kind::Broadcast => {
            let declared = app.publisher.rabbit.declare_group(topic, &group).await;
            declared.map_err(away("queue broker (RabbitMQ)"))?;
            Vec::new()
        }
        _ => Vec::new(),
    };
    let inserted = app.store.insert_group(&group, &positions).await;
    match inserted.on_constraint("consumer_groups_topic_id_fkey", catalog::unknown())? {
        Some(()) => Ok(Some(group)),
        None => {
            if topic.kind == Kind::Broadcast {
                let spare = app.publisher.rabbit.delete_queue(&topic.group_queue(group.group_id)).await;
                tracing::debug!(deleted = spare.is_ok(), "another instance made the group");
            }
            Ok(app.store.group(topic, name).await?)
        }
    }
}

async fn poll(
    app: &App,
    topic: &Arc<Topic>,
    group: &Group,
    caller: &Caller,
    query: &SubscribeQuery,
) -> Result<Response> {
    let max = query.max.unwrap_or(POLL);
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0).min(app.config.subscribe.longest_wait_ms));
    let mut subscription = app.hubs.join(topic, group, caller.subject(), max);
    // Long enough for one look at the database, even when told not to wait.
    let mut deadline = Instant::now() + wait.max(Duration::from_millis(250));
    let mut messages = Vec::new();
    while messages.len() < max {
        let Ok(Some(handed)) = tokio::time::timeout_at(deadline, subscription.next()).await else { break };
        if messages.is_empty() {
            deadline = Instant::now() + GATHER;
        }
        messages.push(RawValue::from_string(handed.json).map_err(Problem::internal)?);
    }
    subscription.keep = true;
    Ok(Json(Polled { messages }).into_response())
}

/// In a group.
async fn share(app: &App, topic: &Arc<Topic>, group: &Group, seat: &Seat, query: &SubscribeQuery) -> Result<Source> {
    let window = query.max.unwrap_or(app.config.deliver.window);
    let subscription = app.hubs.join(topic, group, seat.caller.subject(), window);
    let inserted = app.store.insert_subscriber(subscription.subscriber_id, group.group_id, app.instance).await;
    inserted.on_constraint("subscribers_group_id_fkey", catalog::unknown())?;
    Ok(Source::Group(subscription))
}

/// Without group.
async fn listen(app: &App, topic: &Arc<Topic>, query: &SubscribeQuery, last: Option<&str>) -> Result<Source> {
    let listener = match (last, query.from) {
        (Some(token), _) => app.tails.resume(topic, token).await?,
        (None, Some(From::Earliest)) => app.tails.replay(topic).await?,
        (None, _) => app.tails.listen(topic).await?,
    };
    Ok(Source::All(listener))
}

/// One of the SSE and WebSocket subscribers that this instance has room for.
pub(super) struct Seat {
    pub(super) caller: Caller,
    pub(super) app: App,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    fn take(app: &App, caller: Caller) -> Result<Self> {
        let permit = app.subscribers.clone().try_acquire_owned().map_err(|_| {
            let detail = "this instance has all the subscribers that it takes: try again, it may be another one then";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_subscribers", detail)
                .with_retry_after(Duration::from_secs(2))
        })?;
        app.metrics.subscribers.inc();
        Ok(Self { caller, app: app.clone(), _permit: permit })
    }

    /// Whether its token is still good.
    pub(super) fn may_stay(&self) -> bool {
        let claims = &self.caller.claims;
        claims.exp > Utc::now().timestamp() && !self.app.revocations.is_revoked(claims)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.app.metrics.subscribers.dec();
    }
}

/// Where a subscriber's messages come from.
pub(super) enum Source {
    Group(Subscription),
    All(Listener),
}

impl Source {
    /// Where it begins, as a resume token; groups have none.
    pub(super) fn begins(&self) -> Option<&str> {
        match self {
            Self::Group(_) => None,
            Self::All(listener) => Some(&listener.begins),
        }
    }

    pub(super) async fn next(&mut self) -> Option<Tailed> {
        match self {
            Self::Group(subscription) => {
                subscription.next().await.map(|handed| Tailed::Message { json: handed.json.into(), token: None })
            }
            Self::All(listener) => listener.next().await,
        }
    }
}

fn respond(app: &App, seat: Seat, source: Source) -> Response {
    let keep_alive = KeepAlive::new().interval(Duration::from_millis(app.config.subscribe.keep_alive_ms));
    let response = Sse::new(events(seat, source)).keep_alive(keep_alive).into_response();
    // A buffering proxy would hold messages back.
    ([("x-accel-buffering", "no")], response).into_response()
}

fn events(seat: Seat, source: Source) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    enum Stage {
        Begin(Seat, Source),
        Go(Seat, Source),
        End,
    }
    stream::unfold(Stage::Begin(seat, source), |stage| async {
        let (seat, mut source) = match stage {
            Stage::Begin(seat, source) => {
                let hello = Event::default().comment("subscribed");
                let hello = match source.begins() {
                    Some(token) => hello.id(token),
                    None => hello,
                };
                return Some((Ok(hello), Stage::Go(seat, source)));
            }
            Stage::Go(seat, source) => (seat, source),
            Stage::End => return None,
        };
        let mut look = tokio::time::interval(TOKEN_LOOK);
        loop {
            tokio::select! {
                biased;
                () = seat.app.context.shutdown.cancelled() => {
                    return Some((Ok(Event::default().comment("closing: subscribe again")), Stage::End));
                }
                _ = look.tick() => if !seat.may_stay() {
                    return Some((Ok(Event::default().comment("closing: the token has ended")), Stage::End));
                },
                next = source.next() => {
                    let event = match next {
                        Some(Tailed::Message { json, token: Some(token) }) => Event::default().id(token).data(json),
                        Some(Tailed::Message { json, token: None }) => Event::default().data(json),
                        Some(Tailed::Gap) => Event::default().event("gap").data("{}"),
                        None => return Some((Ok(Event::default().comment("closing: subscribe again")), Stage::End)),
                    };
                    return Some((Ok(event), Stage::Go(seat, source)));
                }
            }
        }
    })
}
