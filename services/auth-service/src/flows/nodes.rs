//! Nodes: made by who may, or by themselves with a claim code; their keys follow one another with an overlap.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::{
    identity::{Revocation, RevocationPublisher},
    problem::{OnConstraint as _, Problem},
};
use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::passwords::limit;
use crate::{
    App,
    audit::SecurityEvent,
    clients::next_epoch,
    codes,
    network::Network,
    nodes::{Attributes, Node, PublicKey, enrolment_text, has_signed, rotation_text},
    store::{self, nodes::NewClaim},
};

/// Groups of four characters in a claim code: 80 bits.
const CLAIM_GROUPS: usize = 4;
const CLAIM: &str = "node-claim";

/// Makes a node with its first key.
///
/// # Errors
/// 409 `node_exists`, `key_exists`.
pub(crate) async fn create(
    app: &App,
    name: &str,
    attributes: Attributes,
    key: &PublicKey,
    actor: &str,
) -> Result<Node, Problem> {
    let mut transaction = app.pool.begin().await?;
    let node = insert(&mut transaction, Uuid::now_v7(), name, attributes, key, actor).await?;
    record(&mut transaction, "node-created", node.id, Some(actor), json!({ "key": key.thumbprint })).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(node)
}

async fn insert(
    connection: &mut PgConnection,
    id: Uuid,
    name: &str,
    attributes: Attributes,
    key: &PublicKey,
    actor: &str,
) -> Result<Node, Problem> {
    let now = Utc::now();
    let node = Node {
        id,
        name: name.to_owned(),
        attributes: Json(attributes),
        disabled: false,
        created_by: actor.to_owned(),
        created_at: now,
        last_seen_at: None,
        epoch: next_epoch(now, None),
    };
    let taken = Problem::conflict("node_exists", "there is a node of this name: choose another one");
    store::nodes::insert(connection, &node).await.on_constraint("nodes_name_key", taken)?;
    insert_key(connection, id, key, now).await?;
    Ok(node)
}

async fn insert_key(
    connection: &mut PgConnection,
    node_id: Uuid,
    key: &PublicKey,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    let taken = Problem::conflict("key_exists", "this key is a node's already: each node makes its own");
    store::nodes::insert_key(connection, node_id, key, now).await.on_constraint("node_keys_pkey", taken)
}

/// A code with which one node may enrol itself.
///
/// # Errors
/// The database.
pub(crate) async fn claim(
    app: &App,
    name: Option<&str>,
    attributes: Attributes,
    life: TimeDelta,
    actor: &str,
) -> Result<(Uuid, String, DateTime<Utc>), Problem> {
    let (id, now, code) = (Uuid::now_v7(), Utc::now(), codes::typed(CLAIM_GROUPS));
    let expires_at = now + life;
    let code_hash = codes::hash(CLAIM, &codes::normal(&code));
    let new = NewClaim { id, code_hash: &code_hash, name, attributes, created_by: actor, now, expires_at };
    let mut transaction = app.pool.begin().await?;
    store::nodes::insert_claim(&mut transaction, new).await?;
    record(&mut transaction, "node-claim-created", id, Some(actor), json!({ "expiresAt": expires_at })).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok((id, code, expires_at))
}

/// What a node sends to enrol itself.
pub(crate) struct Enrolment {
    pub code: String,
    pub key: PublicKey,
    pub signature: String,
    pub name: Option<String>,
    pub attributes: Attributes,
}

/// A node enrols itself. What the technician said of it holds over what it says of itself.
///
/// # Errors
/// 403 `claim_refused` for a code that is wrong, used or too old, and for a signature that is not the key's; 429; 409.
pub(crate) async fn enrol(app: &App, enrolment: Enrolment, network: Network) -> Result<Node, Problem> {
    let (id, code) = (Uuid::now_v7(), codes::normal(&enrolment.code));
    let signed =
        has_signed(&enrolment.key.bytes, &enrolment_text(&code, &enrolment.key.thumbprint), &enrolment.signature);
    let mut transaction = app.pool.begin().await?;
    let claim = if signed {
        store::nodes::use_claim(&mut transaction, &codes::hash(CLAIM, &code), id, Utc::now()).await?
    } else {
        None
    };
    let Some(claim) = claim else {
        drop(transaction);
        limit(app, "claim", network, app.accounts.guesses_per_network).await?;
        let detail = "the code is wrong, used or too old, or the signature over it is not the key's";
        return Err(Problem::new(axum::http::StatusCode::FORBIDDEN, "claim_refused", detail));
    };
    let mut attributes = enrolment.attributes;
    attributes.extend(claim.attributes.0);
    let name = claim.name.or(enrolment.name).unwrap_or_else(|| format!("node-{id}"));
    let node = insert(&mut transaction, id, &name, attributes, &enrolment.key, &claim.created_by).await?;
    let data = json!({ "claim": claim.id, "key": enrolment.key.thumbprint });
    record(&mut transaction, "node-enrolled", id, Some(&claim.created_by), data).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(node)
}

/// One more key, by who may; with `end_others_after` the present ones end then.
///
/// # Errors
/// 404; 409 `key_exists`.
pub(crate) async fn add_key(
    app: &App,
    node_id: Uuid,
    key: &PublicKey,
    end_others_after: Option<TimeDelta>,
    actor: &str,
) -> Result<(), Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    store::nodes::lock(&mut transaction, node_id).await?.ok_or_else(|| Problem::not_found("node"))?;
    if let Some(overlap) = end_others_after {
        for other in store::nodes::keys(&mut *transaction, node_id).await? {
            store::nodes::end_key(&mut transaction, &other.key_id, now + overlap).await?;
        }
    }
    insert_key(&mut transaction, node_id, key, now).await?;
    record(&mut transaction, "node-key-added", node_id, Some(actor), json!({ "key": key.thumbprint })).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

/// A node lets a new key in by itself: both keys sign.
pub(crate) struct Rotation {
    pub key: PublicKey,
    pub by: String,
    pub signature: String,
    pub new_signature: String,
    pub overlap: TimeDelta,
}

/// Rotates a key by its own signature; the old one stays good for the overlap.
///
/// # Errors
/// 403 `rotation_refused`; 409 `key_exists`; 429.
pub(crate) async fn rotate(app: &App, rotation: Rotation, network: Network) -> Result<Uuid, Problem> {
    let now = Utc::now();
    let text = rotation_text(&rotation.by, &rotation.key.thumbprint);
    let present = store::nodes::key(&app.pool, &rotation.by, now).await?;
    let present = present.filter(|present| {
        has_signed(&present.public_key, &text, &rotation.signature)
            && has_signed(&rotation.key.bytes, &text, &rotation.new_signature)
    });
    let Some(node_id) = present.map(|present| present.node_id) else {
        limit(app, "rotation", network, app.accounts.guesses_per_network).await?;
        let detail = "no good key has signed the new one, or the new one has not signed itself";
        return Err(Problem::new(axum::http::StatusCode::FORBIDDEN, "rotation_refused", detail));
    };
    let mut transaction = app.pool.begin().await?;
    insert_key(&mut transaction, node_id, &rotation.key, now).await?;
    store::nodes::end_key(&mut transaction, &rotation.by, now + rotation.overlap).await?;
    let data = json!({ "key": rotation.key.thumbprint, "replaces": rotation.by });
    record(&mut transaction, "node-key-rotated", node_id, Some(&node_id.to_string()), data).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(node_id)
}

/// Ends a key, and the node's tokens: which key a token came from is not in it.
///
/// # Errors
/// 404.
pub(crate) async fn disable_key(app: &App, node_id: Uuid, key_id: &str, actor: &str) -> Result<(), Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    let node = store::nodes::lock(&mut transaction, node_id).await?;
    let mut node = node.ok_or_else(|| Problem::not_found("node"))?;
    if !store::nodes::disable_key(&mut transaction, node_id, key_id, now).await? {
        return Err(Problem::not_found("good key of this node"));
    }
    node.epoch = next_epoch(now, Some(node.epoch));
    store::nodes::update(&mut transaction, &node, now).await?;
    let revocation = revoke(&mut transaction, &node).await?;
    record(&mut transaction, "node-key-disabled", node_id, Some(actor), json!({ "key": key_id })).await?;
    transaction.commit().await?;
    after_commit(app, &revocation).await;
    Ok(())
}

/// Changes a node; one that is disabled loses its tokens everywhere, at once.
///
/// # Errors
/// 404; 409 `node_exists`.
pub(crate) async fn change(
    app: &App,
    id: Uuid,
    name: Option<String>,
    attributes: Option<Attributes>,
    disabled: Option<bool>,
    actor: &str,
) -> Result<Node, Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    let node = store::nodes::lock(&mut transaction, id).await?;
    let mut node = node.ok_or_else(|| Problem::not_found("node"))?;
    let turned = disabled.filter(|disabled| *disabled != node.disabled);
    node.name = name.unwrap_or(node.name);
    node.attributes = attributes.map_or(node.attributes, Json);
    node.disabled = disabled.unwrap_or(node.disabled);
    if turned == Some(true) {
        node.epoch = next_epoch(now, Some(node.epoch));
    }
    let taken = Problem::conflict("node_exists", "there is a node of this name: choose another one");
    store::nodes::update(&mut transaction, &node, now).await.on_constraint("nodes_name_key", taken)?;
    let revocation = if turned == Some(true) { Some(revoke(&mut transaction, &node).await?) } else { None };
    let kind = match turned {
        Some(true) => "node-disabled",
        Some(false) => "node-enabled",
        None => "node-changed",
    };
    record(&mut transaction, kind, id, Some(actor), json!({})).await?;
    transaction.commit().await?;
    match &revocation {
        Some(revocation) => after_commit(app, revocation).await,
        None => app.relay.wake(),
    }
    Ok(node)
}

async fn revoke(connection: &mut PgConnection, node: &Node) -> sqlx::Result<Revocation> {
    let revocation = Revocation::Client { client_id: node.id.to_string(), epoch: node.epoch };
    RevocationPublisher::in_transaction(connection, &revocation).await?;
    Ok(revocation)
}

async fn after_commit(app: &App, revocation: &Revocation) {
    app.relay.wake();
    app.revocations.apply(revocation);
    app.publisher.flush().await;
}

async fn record(
    connection: &mut PgConnection,
    kind: &'static str,
    id: Uuid,
    actor: Option<&str>,
    data: Value,
) -> sqlx::Result<()> {
    let event = SecurityEvent::about(kind, id.to_string(), actor, data);
    store::audit::record(connection, &event, Utc::now()).await
}
