//! The table `sessions` as families of refresh tokens: a refresh is one compare-and-set on one row; logout, reuse and expiry
//! take the same row.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    grants::{KnownGrants, ScopedGrant},
    refresh_token::FamilyState,
};

/// A family, with the rights of its user as they are kept here.
pub(crate) struct Family {
    pub row: Row,
    pub grants: Option<KnownGrants>,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Row {
    pub id: Uuid,
    pub user_id: Uuid,
    pub client_id: String,
    pub generation: i64,
    pub rotated_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub idle_expires_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// `None`: a login without OAuth, which holds all of the user's rights.
    pub scope: Option<Vec<String>>,
    pub resources: Vec<String>,
    pub auth_time: Option<DateTime<Utc>>,
    pub amr: Vec<String>,
    pub acr: Option<String>,
    pub dpop_jkt: Option<String>,
}

impl Row {
    /// What the rule of refresh tokens looks at.
    pub(crate) fn state(&self) -> FamilyState {
        FamilyState {
            generation: self.generation.unsigned_abs(),
            rotated_at: self.rotated_at,
            ended: self.ended_at.is_some(),
            expires_at: self.expires_at,
            idle_expires_at: self.idle_expires_at,
        }
    }
}

#[derive(sqlx::FromRow)]
struct Joined {
    #[sqlx(flatten)]
    row: Row,
    username: Option<String>,
    disabled: Option<bool>,
    roles: Option<Vec<String>>,
    permissions: Option<Vec<String>>,
    scoped: Option<Json<Vec<ScopedGrant>>>,
    epoch: Option<i64>,
    newest_epoch: Option<i64>,
    valid_until: Option<DateTime<Utc>>,
    fetched_at: Option<DateTime<Utc>>,
}

impl From<Joined> for Family {
    fn from(joined: Joined) -> Self {
        let Joined {
            row,
            username,
            disabled,
            roles,
            permissions,
            scoped,
            epoch,
            newest_epoch,
            valid_until,
            fetched_at,
        } = joined;
        let user_id = row.user_id;
        let grants = (|| {
            Some(KnownGrants {
                user_id,
                username: username?,
                disabled: disabled?,
                roles: roles?,
                permissions: permissions?,
                scoped: scoped?,
                epoch: epoch?,
                newest_epoch: newest_epoch?,
                valid_until,
                fetched_at: fetched_at?,
            })
        })();
        Self { row, grants }
    }
}

pub(crate) async fn find(pool: &PgPool, id: Uuid) -> sqlx::Result<Option<Family>> {
    let found: Option<Joined> = sqlx::query_as(
        "select s.id, s.user_id, s.client_id, s.generation, s.rotated_at, s.created_at, s.idle_expires_at, s.expires_at,
             s.ended_at, s.scope, s.resources, s.auth_time, s.amr, s.acr, s.dpop_jkt,
             g.username, g.disabled, g.roles, g.permissions, g.scoped, g.epoch, g.newest_epoch, g.valid_until, g.fetched_at
         from sessions s left join grants g on g.user_id = s.user_id where s.id = $1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    Ok(found.map(Family::from))
}

/// The next generation, if `generation` is still the current one and the session goes on.
pub(crate) async fn rotate(
    pool: &PgPool,
    id: Uuid,
    generation: i64,
    now: DateTime<Utc>,
    idle_expires_at: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let rotated = sqlx::query(
        "update sessions
         set generation = generation + 1, rotated_at = $3, last_used_at = $3, idle_expires_at = least(expires_at, $4)
         where id = $1 and generation = $2 and ended_at is null and expires_at > $3 and idle_expires_at > $3",
    )
    .bind(id)
    .bind(generation)
    .bind(now)
    .bind(idle_expires_at)
    .execute(pool)
    .await?;
    Ok(rotated.rows_affected() > 0)
}

/// A session of an OAuth client.
pub(crate) struct NewFamily<'a> {
    pub id: Uuid,
    pub user_id: Uuid,
    pub client_id: &'a str,
    /// The browser's session that it comes from.
    pub parent: Option<Uuid>,
    pub device: Option<&'a str>,
    pub network: Option<&'a str>,
    pub scope: &'a [String],
    pub resources: &'a [String],
    pub auth_time: DateTime<Utc>,
    pub amr: &'a [String],
    pub acr: Option<&'a str>,
    pub dpop_jkt: Option<&'a str>,
    pub now: DateTime<Utc>,
    pub idle_expires_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Starts one, if the user is not disabled and the browser's session goes on. The row locks make this and an ending wait for
/// each other.
pub(crate) async fn create(connection: &mut PgConnection, new: &NewFamily<'_>) -> sqlx::Result<bool> {
    if let Some(parent) = new.parent {
        let alive: Option<Uuid> =
            sqlx::query_scalar("select id from sessions where id = $1 and ended_at is null for share")
                .bind(parent)
                .fetch_optional(&mut *connection)
                .await?;
        if alive.is_none() {
            return Ok(false);
        }
    }
    let created = sqlx::query(
        "insert into sessions
             (id, user_id, client_id, device, network, rotated_at, created_at, last_used_at, idle_expires_at, expires_at,
              parent_id, scope, resources, auth_time, amr, acr, dpop_jkt)
         select $1, user_id, $3, $4, $5, $6, $6, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15
         from credentials where user_id = $2 and not disabled for share",
    )
    .bind(new.id)
    .bind(new.user_id)
    .bind(new.client_id)
    .bind(new.device)
    .bind(new.network)
    .bind(new.now)
    .bind(new.idle_expires_at)
    .bind(new.expires_at)
    .bind(new.parent)
    .bind(new.scope)
    .bind(new.resources)
    .bind(new.auth_time)
    .bind(new.amr)
    .bind(new.acr)
    .bind(new.dpop_jkt)
    .execute(connection)
    .await?;
    Ok(created.rows_affected() > 0)
}
