//! The ecosystem's channels: domain events, which services tell each other over the exchange `kronos.events`, as broadcasts
//! that HTTP subscribers can listen to. Each channel asks for the permission to read what its events tell, besides
//! `messages:subscribe`. An event goes into the outbox in the transaction that remembers it, so it is bridged once.

use std::{collections::BTreeMap, time::Duration};

use chrono::{SecondsFormat, SubsecRound as _, Utc};
use kronos_common::{
    event::Event,
    events::{self, Subscription},
    identity::Caller,
    problem::{OnConstraint as _, Problem, Result},
    rabbit::Connection,
    service::Context,
};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    config::Topics,
    message::Message,
    publish::Publisher,
    store::Store,
    topic::{Kind, Ordering, Topic},
};

/// Names that begin so are the ecosystem's own.
pub(crate) const RESERVED: &str = "kronos.";
/// The queue in which the gateway keeps the requests that it has accepted; for who may speak for others alone.
pub(crate) const REQUESTS: &str = "kronos.gateway.requests";
/// The permission to speak for others.
pub(crate) const DELEGATE: &str = "requests:delegate";
/// Carry a secret for one person's mailbox.
const NOT_BRIDGED: [&str; 1] = ["kronos.auth.mail-requested"];
const QUEUE: &str = "messaging-service.channels";
const RETRY: Duration = Duration::from_secs(1);

/// A channel: its topic, the areas of its events' types, and the permission to listen.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) topic: &'static str,
    areas: &'static [&'static str],
    permission: &'static str,
}

/// All of them. To Gaia's, Gaia publishes itself.
pub(crate) const CHANNELS: [Channel; 7] = [
    Channel { topic: "kronos.events.auth", areas: &["auth"], permission: "access:check" },
    Channel { topic: "kronos.events.user", areas: &["user", "role", "group"], permission: "users:read" },
    Channel { topic: "kronos.events.log", areas: &["log"], permission: "logs:read" },
    Channel { topic: "kronos.events.cache", areas: &["cache"], permission: "cache:read" },
    Channel { topic: "kronos.events.router", areas: &["router", "route"], permission: "routes:read" },
    Channel { topic: "kronos.events.database", areas: &["db", "database"], permission: "db:read" },
    Channel { topic: GAIA, areas: &["gaia"], permission: "logs:read" },
];
const GAIA: &str = "kronos.events.gaia";

/// Bindings of all channels.
const BINDINGS: [&str; 11] = [
    "kronos.auth.#",
    "kronos.user.#",
    "kronos.role.#",
    "kronos.group.#",
    "kronos.log.#",
    "kronos.cache.#",
    "kronos.router.#",
    "kronos.route.#",
    "kronos.db.#",
    "kronos.database.#",
    "kronos.gaia.#",
];

/// Whether the caller may read a topic's messages, as far as it is a channel.
///
/// # Errors
/// 403 `permission_denied`.
pub(crate) fn may_read(caller: &Caller, topic: &str) -> Result<()> {
    match CHANNELS.iter().find(|channel| channel.topic == topic) {
        Some(channel) => caller.require(channel.permission),
        None => Ok(()),
    }
}

/// The channels that the caller may not read.
pub(crate) fn hidden_from(caller: &Caller) -> Vec<&'static str> {
    let hidden = CHANNELS.iter().filter(|channel| !caller.may(channel.permission)).map(|channel| channel.topic);
    hidden.chain((!caller.may(DELEGATE)).then_some(REQUESTS)).collect()
}

/// Whether callers may publish to a topic: to channels, services alone tell events.
///
/// # Errors
/// 403 `permission_denied`.
pub(crate) fn may_publish(topic: &str) -> Result<()> {
    if topic.starts_with(RESERVED) && ![GAIA, REQUESTS].contains(&topic) {
        return Err(Problem::forbidden("only Kronos itself publishes to its channels"));
    }
    Ok(())
}

/// Makes the channels, then bridges until shutdown.
pub(crate) async fn run(publisher: Publisher, rabbit: Connection, defaults: Topics, context: Context) {
    for channel in &CHANNELS {
        let topic = topic(channel.topic, &defaults);
        while let Err(error) = create(&publisher, &topic).await {
            tracing::info!(topic = topic.name, error = format!("{error:#}"), "channel is made later");
            tokio::select! { () = tokio::time::sleep(RETRY) => {}, () = context.shutdown.cancelled() => return }
        }
    }
    let pool = publisher.store.pool.clone();
    let subscription = Subscription::new(QUEUE, &BINDINGS, move |connection, event: Event| {
        let (publisher, defaults) = (publisher.clone(), defaults.clone());
        Box::pin(async move {
            let Some(channel) = channel_of(&event.type_) else { return Ok(()) };
            let topic = topic(channel.topic, &defaults);
            Store::insert_pending_in(connection, &[(&topic, &message(&event), None)]).await?;
            publisher.accepted_in_outbox(&topic);
            Ok(())
        })
    });
    events::consume(rabbit, pool, subscription, &context);
}

fn channel_of(event_type: &str) -> Option<&'static Channel> {
    let area = event_type.strip_prefix(RESERVED)?.split('.').next()?;
    let known = CHANNELS.iter().find(|channel| channel.areas.contains(&area));
    known.filter(|_| !NOT_BRIDGED.contains(&event_type))
}

async fn create(publisher: &Publisher, topic: &Topic) -> anyhow::Result<()> {
    if publisher.store.topic_by_name(&topic.name).await?.is_some() {
        return Ok(());
    }
    publisher.declare(topic).await?;
    let made = || Problem::conflict("topic_exists", "another instance made it");
    match publisher.store.insert_topic(topic).await.on_constraint("topics_name_key", made()) {
        Err(problem) if problem.code() != "topic_exists" => Err(problem.into()),
        _ => Ok(()),
    }
}

/// The same everywhere, so that instances which start at once make the same.
fn topic(name: &str, defaults: &Topics) -> Topic {
    Topic {
        topic_id: id_of(&["channel", name]),
        name: name.to_owned(),
        kind: Kind::Broadcast,
        max_attempts: defaults.max_attempts,
        backoff_ms: defaults.backoff_ms,
        lease_ms: defaults.lease_ms,
        priority_levels: 1,
        partitions: 1,
        max_backoff_ms: None,
        retention_ms: None,
        max_length: None,
        ordering: Ordering::Relaxed,
        schema: None,
        ageing_ms: 0,
        dead_letter: None,
        encrypted: false,
        created_at: Utc::now().trunc_subsecs(6),
    }
}

fn message(event: &Event) -> Message {
    let mut headers = BTreeMap::from([
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", event.id.clone()),
        ("ce-source", event.source.clone()),
        ("ce-type", event.type_.clone()),
        ("ce-time", event.time.to_rfc3339_opts(SecondsFormat::Micros, true)),
        ("content-type", "application/json".to_owned()),
    ]);
    headers.extend(event.subject.clone().map(|subject| ("ce-subject", subject)));
    Message {
        id: Uuid::try_parse(&event.id).unwrap_or_else(|_| id_of(&["event", &event.source, &event.id])),
        key: event.subject.clone().map(|subject| subject.replace('\0', "")),
        payload: event.data.to_string().into(),
        headers: serde_json::to_string(&headers).expect("a map of strings serialises"),
        priority: 0,
        published_at: Utc::now().trunc_subsecs(6),
        expires_at: None,
        traceparent: event.traceparent.clone(),
        sealed: false,
    }
}

fn id_of(parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
