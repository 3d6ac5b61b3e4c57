//! The table `clients`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};

use super::is_storable;
use crate::{
    client_settings::Settings,
    clients::{Client, Registered},
};

/// What `insert` writes.
pub(crate) struct NewClient<'a> {
    pub client_id: &'a str,
    pub settings: &'a Settings,
    pub secret_hash: Option<&'a [u8]>,
    pub registration_token_hash: Option<&'a [u8]>,
    pub epoch: i64,
    pub created_by: &'a str,
}

/// A client with what its authentication needs.
pub(crate) async fn registered(executor: impl PgExecutor<'_>, client_id: &str) -> sqlx::Result<Option<Registered>> {
    if !is_storable(client_id) {
        return Ok(None);
    }
    sqlx::query_as(
        "select client_id, name, grant_types, permissions, scoped_permissions, redirect_uris, post_logout_redirect_uris,
             token_endpoint_auth_method, require_pkce, jwks, jwks_uri, scopes, resources, first_party,
             id_token_signed_response_alg, dpop_bound_access_tokens, epoch, created_by, created_at, updated_at,
             secret_rotated_at, secret_hash, previous_secret_hash, previous_valid_until, registration_token_hash
         from clients where client_id = $1",
    )
    .bind(client_id)
    .fetch_optional(executor)
    .await
}

pub(crate) async fn find(executor: impl PgExecutor<'_>, client_id: &str) -> sqlx::Result<Option<Client>> {
    Ok(registered(executor, client_id).await?.map(|registered| registered.client))
}

/// The same, and nobody changes it until the transaction ends.
pub(crate) async fn find_for_update(connection: &mut PgConnection, client_id: &str) -> sqlx::Result<Option<Client>> {
    if !is_storable(client_id) {
        return Ok(None);
    }
    sqlx::query("select from clients where client_id = $1 for update")
        .bind(client_id)
        .execute(&mut *connection)
        .await?;
    find(connection, client_id).await
}

/// Newest first.
pub(crate) async fn list(
    pool: &PgPool,
    after: Option<(DateTime<Utc>, String)>,
    limit: i64,
) -> sqlx::Result<Vec<Client>> {
    let (created_at, client_id) = after.unzip();
    sqlx::query_as(
        "select client_id, name, grant_types, permissions, scoped_permissions, redirect_uris, post_logout_redirect_uris,
             token_endpoint_auth_method, require_pkce, jwks, jwks_uri, scopes, resources, first_party,
             id_token_signed_response_alg, dpop_bound_access_tokens, epoch, created_by, created_at, updated_at,
             secret_rotated_at
         from clients where $1::timestamptz is null or (created_at, client_id) < ($1, $2)
         order by created_at desc, client_id desc limit $3",
    )
    .bind(created_at)
    .bind(client_id)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Fails on the constraint `clients_pkey` if the id is taken.
pub(crate) async fn insert(connection: &mut PgConnection, new: &NewClient<'_>) -> sqlx::Result<()> {
    let settings = new.settings;
    sqlx::query(
        "insert into clients
             (client_id, name, grant_types, permissions, scoped_permissions, redirect_uris, post_logout_redirect_uris,
              token_endpoint_auth_method, require_pkce, jwks, jwks_uri, scopes, resources, first_party,
              id_token_signed_response_alg, dpop_bound_access_tokens, epoch, created_by, secret_hash,
              registration_token_hash, secret_rotated_at)
         values ($1, $2, $3, $4, $20, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
             case when $18::bytea is not null then now() end)",
    )
    .bind(new.client_id)
    .bind(&settings.name)
    .bind(&settings.grant_types)
    .bind(&settings.permissions)
    .bind(&settings.redirect_uris)
    .bind(&settings.post_logout_redirect_uris)
    .bind(settings.token_endpoint_auth_method)
    .bind(settings.require_pkce)
    .bind(&settings.jwks)
    .bind(&settings.jwks_uri)
    .bind(&settings.scopes)
    .bind(&settings.resources)
    .bind(settings.first_party)
    .bind(settings.id_token_signed_response_alg)
    .bind(settings.dpop_bound_access_tokens)
    .bind(new.epoch)
    .bind(new.created_by)
    .bind(new.secret_hash)
    .bind(new.registration_token_hash)
    .bind(Json(&settings.scoped_permissions))
    .execute(connection)
    .await?;
    Ok(())
}

/// New settings; `secret_hash` is set if there is a new one, and erased if the method needs none.
pub(crate) async fn update(
    connection: &mut PgConnection,
    client_id: &str,
    settings: &Settings,
    secret_hash: Option<&[u8]>,
    epoch: i64,
) -> sqlx::Result<()> {
    sqlx::query(
        "update clients
         set name = $2, grant_types = $3, permissions = $4, redirect_uris = $5, post_logout_redirect_uris = $6,
             token_endpoint_auth_method = $7, require_pkce = $8, jwks = $9, jwks_uri = $10, scopes = $11,
             resources = $12, first_party = $13, id_token_signed_response_alg = $14, dpop_bound_access_tokens = $15,
             epoch = $16, scoped_permissions = $19, updated_at = now(),
             secret_rotated_at = case when $17::bytea is not null then now() when $18 then secret_rotated_at end,
             secret_hash = case when $18 then coalesce($17, secret_hash) end,
             previous_secret_hash = case when $18 and $17 is null then previous_secret_hash end,
             previous_valid_until = case when $18 and $17 is null then previous_valid_until end
         where client_id = $1",
    )
    .bind(client_id)
    .bind(&settings.name)
    .bind(&settings.grant_types)
    .bind(&settings.permissions)
    .bind(&settings.redirect_uris)
    .bind(&settings.post_logout_redirect_uris)
    .bind(settings.token_endpoint_auth_method)
    .bind(settings.require_pkce)
    .bind(&settings.jwks)
    .bind(&settings.jwks_uri)
    .bind(&settings.scopes)
    .bind(&settings.resources)
    .bind(settings.first_party)
    .bind(settings.id_token_signed_response_alg)
    .bind(settings.dpop_bound_access_tokens)
    .bind(epoch)
    .bind(secret_hash)
    .bind(settings.token_endpoint_auth_method.has_secret())
    .bind(Json(&settings.scoped_permissions))
    .execute(connection)
    .await?;
    Ok(())
}

/// A new secret and epoch; the old secret is good until `previous_until`.
pub(crate) async fn rotate_secret(
    connection: &mut PgConnection,
    client_id: &str,
    secret_hash: &[u8],
    previous_until: Option<DateTime<Utc>>,
    epoch: i64,
) -> sqlx::Result<()> {
    sqlx::query(
        "update clients
         set previous_secret_hash = case when $3::timestamptz is null then null else secret_hash end,
             previous_valid_until = $3, secret_hash = $2, epoch = $4, secret_rotated_at = now(), updated_at = now()
         where client_id = $1",
    )
    .bind(client_id)
    .bind(secret_hash)
    .bind(previous_until)
    .bind(epoch)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn delete(connection: &mut PgConnection, client_id: &str) -> sqlx::Result<()> {
    sqlx::query("delete from clients where client_id = $1").bind(client_id).execute(connection).await?;
    Ok(())
}
