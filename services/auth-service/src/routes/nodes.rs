//! Machine identities: robots and other nodes, and their keys.

pub(super) mod fields;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Cursor, Limit, Page},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use self::fields::{NodeAttributes, NodeName, Seconds, Signature};
use super::{
    NO_STORE,
    login::FactorCode,
    origin::Origin,
    permissions::{CanReadNodes, CanWriteNodes},
};
use crate::{
    App,
    flows::nodes::{self, Enrolment, Rotation},
    nodes::{Node, NodeJwk, NodeKey, PublicKey},
    store,
};

const DAY_SECONDS: u32 = 86_400;

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateNode {
    name: NodeName,
    public_key: PublicKey,
    attributes: Option<NodeAttributes>,
}

/// A new node.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedNode {
    id: Uuid,
    /// RFC 7638 thumbprint of the key: the `kid` of what the node signs.
    key_id: String,
    name: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateClaim {
    /// What the node will be called; else it says so itself.
    name: Option<NodeName>,
    /// What is known of it already; holds over what it says itself.
    attributes: Option<NodeAttributes>,
    /// A day, if absent.
    expires_in_seconds: Option<Seconds>,
}

/// A code with which one node enrols itself.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedClaim {
    id: Uuid,
    /// Shown this once; for a label or a QR code.
    code: String,
    expires_at: DateTime<Utc>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EnrolNode {
    /// Any case, with or without hyphens.
    claim_code: FactorCode,
    public_key: PublicKey,
    /// The key's signature over `kronos-node-enrolment:{code}:{keyId}`, the code in capitals without hyphens.
    signature: Signature,
    name: Option<NodeName>,
    attributes: Option<NodeAttributes>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ChangeNode {
    name: Option<NodeName>,
    attributes: Option<NodeAttributes>,
    /// A node that is disabled has no good key and no good token.
    disabled: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AddKey {
    public_key: PublicKey,
    /// The present keys end after so long; absent: they stay.
    end_others_after_seconds: Option<Seconds>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RotateKey {
    public_key: PublicKey,
    /// The present key.
    key_id: FactorCode,
    /// The present key's signature over `kronos-node-rotation:{keyId}:{newKeyId}`.
    signature: Signature,
    /// The new key's signature over the same.
    new_key_signature: Signature,
    /// So long the present key stays good; a day, if absent.
    overlap_seconds: Option<Seconds>,
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeQuery {
    /// How many nodes.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Only those whose name holds this, in any case.
    name: Option<String>,
    /// Only those that are disabled, or are not.
    disabled: Option<bool>,
}

/// A node with its keys.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeView {
    #[serde(flatten)]
    node: Node,
    keys: Vec<KeyView>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyView {
    key_id: String,
    /// Whether it verifies anything now.
    good: bool,
    created_at: DateTime<Utc>,
    good_until: Option<DateTime<Utc>>,
    disabled_at: Option<DateTime<Utc>>,
    /// To the minute.
    last_used_at: Option<DateTime<Utc>>,
}

/// The good keys (RFC 7517), newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeKeySet {
    keys: Vec<NodeJwk>,
}

/// Makes a node.
#[utoipa::path(
    post, path = "/nodes", tag = "auth-service", security(("bearer" = [])), request_body = CreateNode,
    responses(
        (status = 201, description = "Made; `Location`", body = CreatedNode),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `nodes:write`", body = ProblemBody),
        (status = 409, description = "`node_exists`, `key_exists`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn create_node(
    State(app): State<App>,
    allowed: Allowed<CanWriteNodes>,
    Json(body): Json<CreateNode>,
) -> Result<Response> {
    let attributes = body.attributes.map(|attributes| attributes.0).unwrap_or_default();
    let node = nodes::create(&app, &body.name.0, attributes, &body.public_key, allowed.caller.subject()).await?;
    Ok(created(node, body.public_key))
}

/// Makes a claim code for a technician: one node may enrol itself with it.
#[utoipa::path(
    post, path = "/nodes/claims", tag = "auth-service", security(("bearer" = [])), request_body = CreateClaim,
    responses(
        (status = 201, description = "The code, this once", body = CreatedClaim),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `nodes:write`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn create_claim(
    State(app): State<App>,
    allowed: Allowed<CanWriteNodes>,
    Json(body): Json<CreateClaim>,
) -> Result<Response> {
    let attributes = body.attributes.map(|attributes| attributes.0).unwrap_or_default();
    let life = body.expires_in_seconds.map_or(TimeDelta::seconds(i64::from(DAY_SECONDS)), Into::into);
    let name = body.name.as_ref().map(|name| name.0.as_str());
    let (id, code, expires_at) = nodes::claim(&app, name, attributes, life, allowed.caller.subject()).await?;
    Ok((StatusCode::CREATED, NO_STORE, Json(CreatedClaim { id, code, expires_at })).into_response())
}

/// A node enrols itself: with a claim code, once, and its key's signature over it.
#[utoipa::path(
    post, path = "/nodes/enrol", tag = "auth-service", request_body = EnrolNode,
    responses(
        (status = 201, description = "Made", body = CreatedNode),
        (status = 403, description = "`claim_refused`: code or signature", body = ProblemBody),
        (status = 409, description = "`node_exists`, `key_exists`; the code is still good", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 429, description = "Too many wrong codes from this network", body = ProblemBody),
    )
)]
pub(super) async fn enrol_node(
    State(app): State<App>,
    origin: Origin,
    Json(body): Json<EnrolNode>,
) -> Result<Response> {
    let enrolment = Enrolment {
        code: body.claim_code.0,
        key: body.public_key.clone(),
        signature: body.signature.0,
        name: body.name.map(|name| name.0),
        attributes: body.attributes.map(|attributes| attributes.0).unwrap_or_default(),
    };
    let node = nodes::enrol(&app, enrolment, origin.network).await?;
    Ok(created(node, body.public_key))
}

fn created(node: Node, key: PublicKey) -> Response {
    let location = [(header::LOCATION, format!("/nodes/{}", node.id))];
    let body = CreatedNode { id: node.id, key_id: key.thumbprint, name: node.name };
    (StatusCode::CREATED, location, Json(body)).into_response()
}

/// Lists nodes, newest first.
#[utoipa::path(
    get, path = "/nodes", tag = "auth-service", security(("bearer" = [])), params(NodeQuery),
    responses(
        (status = 200, description = "A page", body = Page<Node>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `nodes:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_nodes(
    State(app): State<App>,
    _: Allowed<CanReadNodes>,
    Query(query): Query<NodeQuery>,
) -> Result<Json<Page<Node>>> {
    let after = query.cursor.map(|cursor| cursor.decode()).transpose()?;
    let rows = store::nodes::list(&app.pool, after, query.name.as_deref(), query.disabled, query.limit.fetch()).await?;
    Ok(Json(Page::new(rows, query.limit, |node| node.id)))
}

/// A node and its keys.
#[utoipa::path(
    get, path = "/nodes/{id}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The node")),
    responses(
        (status = 200, description = "The node", body = NodeView),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `nodes:read`", body = ProblemBody),
        (status = 404, description = "No such node", body = ProblemBody),
    )
)]
pub(super) async fn get_node(
    State(app): State<App>,
    _: Allowed<CanReadNodes>,
    Path(id): Path<Uuid>,
) -> Result<Json<NodeView>> {
    let node = store::nodes::find(&app.pool, id).await?.ok_or_else(|| Problem::not_found("node"))?;
    let now = Utc::now();
    let view = |key: NodeKey| KeyView {
        good: !node.disabled && key.is_good(now),
        key_id: key.key_id,
        created_at: key.created_at,
        good_until: key.good_until,
        disabled_at: key.disabled_at,
        last_used_at: key.last_used_at,
    };
    let keys = store::nodes::keys(&app.pool, id).await?.into_iter().map(view).collect();
    Ok(Json(NodeView { node, keys }))
}

/// Changes, disables or enables a node. What is absent stays.
#[utoipa::path(
    patch, path = "/nodes/{id}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The node")), request_body = ChangeNode,
    responses(
        (status = 200, description = "As it is now", body = Node),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `nodes:write`", body = ProblemBody),
        (status = 404, description = "No such node", body = ProblemBody),
        (status = 409, description = "`node_exists`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn change_node(
    State(app): State<App>,
    allowed: Allowed<CanWriteNodes>,
    Path(id): Path<Uuid>,
    Json(body): Json<ChangeNode>,
) -> Result<Json<Node>> {
    let (name, attributes) = (body.name.map(|name| name.0), body.attributes.map(|attributes| attributes.0));
    Ok(Json(nodes::change(&app, id, name, attributes, body.disabled, allowed.caller.subject()).await?))
}

/// The good keys of a node as a JWK set: what verifies its signatures. Empty for a disabled one.
#[utoipa::path(
    get, path = "/nodes/{id}/keys", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The node")),
    responses(
        (status = 200, description = "The keys", body = NodeKeySet),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `nodes:read`", body = ProblemBody),
        (status = 404, description = "No such node", body = ProblemBody),
    )
)]
pub(super) async fn list_node_keys(
    State(app): State<App>,
    _: Allowed<CanReadNodes>,
    Path(id): Path<Uuid>,
) -> Result<Json<NodeKeySet>> {
    let node = store::nodes::find(&app.pool, id).await?.ok_or_else(|| Problem::not_found("node"))?;
    let now = Utc::now();
    let keys = store::nodes::keys(&app.pool, id).await?;
    let keys = keys.iter().filter(|key| !node.disabled && key.is_good(now)).map(NodeKey::jwk);
    Ok(Json(NodeKeySet { keys: keys.collect() }))
}

/// Gives a node one more key.
#[utoipa::path(
    post, path = "/nodes/{id}/keys", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The node")), request_body = AddKey,
    responses(
        (status = 201, description = "Added", body = KeyId),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `nodes:write`", body = ProblemBody),
        (status = 404, description = "No such node", body = ProblemBody),
        (status = 409, description = "`key_exists`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn add_node_key(
    State(app): State<App>,
    allowed: Allowed<CanWriteNodes>,
    Path(id): Path<Uuid>,
    Json(body): Json<AddKey>,
) -> Result<Response> {
    let others = body.end_others_after_seconds.map(Into::into);
    nodes::add_key(&app, id, &body.public_key, others, allowed.caller.subject()).await?;
    Ok((StatusCode::CREATED, Json(KeyId { key_id: body.public_key.thumbprint })).into_response())
}

/// A key's id.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyId {
    key_id: String,
}

/// A node replaces its key by itself: the present and the new one sign. Needs no token.
#[utoipa::path(
    post, path = "/nodes/rotate", tag = "auth-service", request_body = RotateKey,
    responses(
        (status = 201, description = "The new key is good; the old one ends after the overlap", body = KeyId),
        (status = 403, description = "`rotation_refused`", body = ProblemBody),
        (status = 409, description = "`key_exists`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 429, description = "Too many from this network", body = ProblemBody),
    )
)]
pub(super) async fn rotate_node_key(
    State(app): State<App>,
    origin: Origin,
    Json(body): Json<RotateKey>,
) -> Result<Response> {
    let key_id = body.public_key.thumbprint.clone();
    let rotation = Rotation {
        key: body.public_key,
        by: body.key_id.0,
        signature: body.signature.0,
        new_signature: body.new_key_signature.0,
        overlap: body.overlap_seconds.map_or(TimeDelta::seconds(i64::from(DAY_SECONDS)), Into::into),
    };
    nodes::rotate(&app, rotation, origin.network).await?;
    Ok((StatusCode::CREATED, Json(KeyId { key_id })).into_response())
}

/// Ends a key at once, and the node's tokens with it.
#[utoipa::path(
    delete, path = "/nodes/{id}/keys/{keyId}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The node"), ("keyId" = String, Path, description = "The key")),
    responses(
        (status = 204, description = "Ended"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `nodes:write`", body = ProblemBody),
        (status = 404, description = "No such node, or no such good key", body = ProblemBody),
    )
)]
pub(super) async fn disable_node_key(
    State(app): State<App>,
    allowed: Allowed<CanWriteNodes>,
    Path((id, key_id)): Path<(Uuid, String)>,
) -> Result<StatusCode> {
    if key_id.contains('\0') {
        return Err(Problem::not_found("good key of this node"));
    }
    nodes::disable_key(&app, id, &key_id, allowed.caller.subject()).await?;
    Ok(StatusCode::NO_CONTENT)
}
