//! The tables `nodes`, `node_keys`, `node_claims`.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use uuid::Uuid;

use crate::nodes::{Attributes, Node, NodeKey, PublicKey};

/// A key that is good now, of a node that is not disabled.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct GoodKey {
    pub node_id: Uuid,
    pub public_key: Vec<u8>,
}

/// The key of that id, if it may be gone by now.
pub(crate) async fn key(pool: &PgPool, key_id: &str, now: DateTime<Utc>) -> sqlx::Result<Option<GoodKey>> {
    if !super::is_storable(key_id) {
        return Ok(None);
    }
    sqlx::query_as(
        "select node_id, public_key from node_keys join nodes on nodes.id = node_id
         where key_id = $1 and disabled_at is null and (good_until is null or good_until > $2) and not disabled",
    )
    .bind(key_id)
    .bind(now)
    .fetch_optional(pool)
    .await
}

/// Notes that a node was here with this key, once a minute.
pub(crate) async fn seen(pool: &PgPool, key_id: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query(
        "with used as (
             update node_keys set last_used_at = $2
             where key_id = $1 and (last_used_at is null or last_used_at < $3) returning node_id
         )
         update nodes set last_seen_at = $2 where id in (select node_id from used)",
    )
    .bind(key_id)
    .bind(now)
    .bind(now - TimeDelta::minutes(1))
    .execute(pool)
    .await?;
    Ok(())
}

pub(crate) async fn insert(connection: &mut PgConnection, node: &Node) -> sqlx::Result<()> {
    sqlx::query(
        "insert into nodes (id, name, attributes, epoch, created_by, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $6)",
    )
    .bind(node.id)
    .bind(&node.name)
    .bind(&node.attributes)
    .bind(node.epoch)
    .bind(&node.created_by)
    .bind(node.created_at)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn insert_key(
    connection: &mut PgConnection,
    node_id: Uuid,
    key: &PublicKey,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("insert into node_keys (key_id, node_id, public_key, created_at) values ($1, $2, $3, $4)")
        .bind(&key.thumbprint)
        .bind(node_id)
        .bind(&key.bytes[..])
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn find(executor: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<Option<Node>> {
    sqlx::query_as(
        "select id, name, attributes, disabled, created_by, created_at, last_seen_at, epoch from nodes where id = $1",
    )
    .bind(id)
    .fetch_optional(executor)
    .await
}

pub(crate) async fn lock(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Node>> {
    sqlx::query_as(
        "select id, name, attributes, disabled, created_by, created_at, last_seen_at, epoch from nodes
         where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(connection)
    .await
}

pub(crate) async fn update(connection: &mut PgConnection, node: &Node, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query(
        "update nodes set name = $2, attributes = $3, disabled = $4, epoch = $5, updated_at = $6 where id = $1",
    )
    .bind(node.id)
    .bind(&node.name)
    .bind(&node.attributes)
    .bind(node.disabled)
    .bind(node.epoch)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Nodes, newest first; perhaps those whose name holds a text, or that are disabled or not.
pub(crate) async fn list(
    pool: &PgPool,
    after: Option<Uuid>,
    name: Option<&str>,
    disabled: Option<bool>,
    limit: i64,
) -> sqlx::Result<Vec<Node>> {
    let name = name.filter(|name| super::is_storable(name)).map(str::to_lowercase);
    sqlx::query_as(
        "select id, name, attributes, disabled, created_by, created_at, last_seen_at, epoch from nodes
         where ($1::uuid is null or id < $1) and ($2::text is null or position($2 in lower(name)) > 0)
             and ($3::boolean is null or disabled = $3)
         order by id desc limit $4",
    )
    .bind(after)
    .bind(name)
    .bind(disabled)
    .bind(limit)
    .fetch_all(pool)
    .await
}

pub(crate) async fn keys(executor: impl PgExecutor<'_>, node_id: Uuid) -> sqlx::Result<Vec<NodeKey>> {
    sqlx::query_as(
        "select key_id, node_id, public_key, created_at, good_until, disabled_at, last_used_at
         from node_keys where node_id = $1 order by created_at desc, key_id",
    )
    .bind(node_id)
    .fetch_all(executor)
    .await
}

pub(crate) async fn disable_key(
    connection: &mut PgConnection,
    node_id: Uuid,
    key_id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let disabled =
        sqlx::query("update node_keys set disabled_at = $3 where node_id = $1 and key_id = $2 and disabled_at is null")
            .bind(node_id)
            .bind(key_id)
            .bind(now)
            .execute(connection)
            .await?;
    Ok(disabled.rows_affected() > 0)
}

/// The key stays good until then at the latest.
pub(crate) async fn end_key(connection: &mut PgConnection, key_id: &str, until: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("update node_keys set good_until = least(good_until, $2) where key_id = $1")
        .bind(key_id)
        .bind(until)
        .execute(connection)
        .await?;
    Ok(())
}

/// A code to enrol with.
pub(crate) struct NewClaim<'a> {
    pub id: Uuid,
    pub code_hash: &'a [u8],
    pub name: Option<&'a str>,
    pub attributes: Attributes,
    pub created_by: &'a str,
    pub now: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

pub(crate) async fn insert_claim(connection: &mut PgConnection, claim: NewClaim<'_>) -> sqlx::Result<()> {
    sqlx::query(
        "insert into node_claims (id, code_hash, name, attributes, created_by, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(claim.id)
    .bind(claim.code_hash)
    .bind(claim.name)
    .bind(Json(claim.attributes))
    .bind(claim.created_by)
    .bind(claim.now)
    .bind(claim.expires_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// What a used code said.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct UsedClaim {
    pub id: Uuid,
    pub name: Option<String>,
    pub attributes: Json<Attributes>,
    pub created_by: String,
}

/// Uses a code up for a node: once.
pub(crate) async fn use_claim(
    connection: &mut PgConnection,
    code_hash: &[u8],
    node_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<UsedClaim>> {
    sqlx::query_as(
        "update node_claims set used_at = $3, node_id = $2
         where code_hash = $1 and used_at is null and expires_at > $3
         returning id, name, attributes, created_by",
    )
    .bind(code_hash)
    .bind(node_id)
    .bind(now)
    .fetch_optional(connection)
    .await
}
