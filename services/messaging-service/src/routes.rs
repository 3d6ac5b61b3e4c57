//! The HTTP interface: what there is, and who may use it.

mod asyncapi;
mod cloud_event;
mod deliveries;
mod failures;
mod ledger;
mod on_topic;
mod publish;
mod queues;
mod requests;
mod schedules;
mod subscribe;
mod topics;
mod websocket;

use axum::extract::DefaultBodyLimit;
use kronos_common::{idempotency, identity::Permission};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

/// What this service asks for, declared when it starts: each with what it allows.
pub(crate) const PERMISSIONS: &[(&str, &str)] = &[
    ("messages:publish", "Publish messages"),
    ("messages:subscribe", "Take messages"),
    ("requests:delegate", "Ask on somebody's behalf, as the gateway does for requests that it accepted"),
    ("topics:manage", "Make, change and remove topics"),
    ("topics:read", "See topics"),
];

pub(crate) struct CanReadTopics;

impl Permission for CanReadTopics {
    const NAME: &'static str = "topics:read";
}

pub(crate) struct CanManageTopics;

impl Permission for CanManageTopics {
    const NAME: &'static str = "topics:manage";
}

pub(crate) struct CanPublish;

impl Permission for CanPublish {
    const NAME: &'static str = "messages:publish";
}

pub(crate) struct CanSubscribe;

impl Permission for CanSubscribe {
    const NAME: &'static str = "messages:subscribe";
}

/// All routes. Only batches of messages may be as large as `[http] body_limit_bytes`.
pub(crate) fn router(app: App) -> OpenApiRouter {
    let idempotent = idempotency::layer(app.store.pool.clone(), app.verifier.clone());
    // Room for a payload that is just too large, so that the answer can say so.
    let single = app.config.http.body_limit_bytes.min(app.config.publish.max_payload_bytes * 2 + 65_536);
    OpenApiRouter::new()
        .routes(routes!(topics::create_topic, topics::list_topics))
        .routes(routes!(topics::show_topic, topics::delete_topic))
        .routes(routes!(queues::create_queue))
        .routes(routes!(queues::list_queues))
        .routes(routes!(queues::delete_queue))
        .routes(routes!(queues::show_guarantees))
        .routes(routes!(ledger::show_ledger))
        .routes(routes!(asyncapi::show_asyncapi))
        .routes(routes!(publish::publish_message))
        .routes(routes!(deliveries::acknowledge_message))
        .routes(routes!(deliveries::retry_message))
        .routes(routes!(deliveries::extend_lease))
        .routes(routes!(failures::replay_dead_letters))
        .routes(routes!(failures::show_history))
        .routes(routes!(requests::reply))
        .routes(routes!(schedules::create_schedule, schedules::list_schedules))
        .routes(routes!(schedules::show_schedule, schedules::delete_schedule))
        .routes(routes!(requests::request))
        .routes(routes!(requests::show_request))
        .layer(DefaultBodyLimit::max(single))
        .routes(routes!(publish::publish_batch))
        .layer(idempotent)
        .routes(routes!(subscribe::subscribe))
        .routes(routes!(failures::list_dead_letters))
        .with_state(app)
}
