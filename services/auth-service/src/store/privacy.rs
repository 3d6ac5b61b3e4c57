//! Everything that is kept on a person, for showing it to them, and erasing it.

use kronos_common::privacy::{Erased, Person};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// All of it as JSON; secrets, keys and hashes of them are left out.
pub(crate) async fn held(pool: &PgPool, person: &Person, username_key: &str, email_key: &str) -> sqlx::Result<Value> {
    sqlx::query_scalar(
        r#"select jsonb_build_object(
            'account', (select to_jsonb(t) from (
                select username, email, email_verified_at as "emailVerifiedAt", disabled, created_at as "createdAt",
                       updated_at as "updatedAt", password_phc is not null as "hasPassword",
                       password_changed_at as "passwordChangedAt"
                from credentials where user_id = $1) t),
            'lastKnownRights', (select to_jsonb(t) from (
                select username, disabled, roles, permissions, scoped, fetched_at as "fetchedAt"
                from grants where user_id = $1) t),
            'sessions', (select coalesce(jsonb_agg(t), '[]') from (
                select id, client_id as "clientId", name, device, network, amr, created_at as "createdAt",
                       last_used_at as "lastUsedAt", expires_at as "expiresAt", ended_at as "endedAt", end_reason as "endReason"
                from sessions where user_id = $1 order by created_at) t),
            'passkeys', (select coalesce(jsonb_agg(t), '[]') from (
                select name, created_at as "createdAt", last_used_at as "lastUsedAt" from passkeys where user_id = $1) t),
            'oneTimePasswords', (select to_jsonb(t) from (
                select created_at as "createdAt", confirmed_at as "confirmedAt" from totp where user_id = $1) t),
            'recoveryCodes', (select count(*) from recovery_codes where user_id = $1),
            'apiKeys', (select coalesce(jsonb_agg(t), '[]') from (
                select id, name, permissions, created_at as "createdAt", expires_at as "expiresAt",
                       last_used_at as "lastUsedAt", revoked_at as "revokedAt"
                from api_keys where owner = $1::text and owner_kind = 'user' order by created_at) t),
            'consents', (select coalesce(jsonb_agg(t), '[]') from (
                select client_id as "clientId", scope, granted_at as "grantedAt" from consents where user_id = $1) t),
            'externalLogins', (select coalesce(jsonb_agg(t), '[]') from (
                select provider, subject, label, linked_at as "linkedAt", last_used_at as "lastUsedAt"
                from external_links where user_id = $1) t),
            'delegations', (select coalesce(jsonb_agg(t), '[]') from (
                select id, subject, actor, client_id as "clientId", ticket, created_at as "createdAt", ended_at as "endedAt"
                from delegations where subject = $1::text or actor = $1::text) t),
            'registrations', (select coalesce(jsonb_agg(t), '[]') from (
                select username, email, display_name as "displayName", language, created_at as "createdAt"
                from registrations where email_key = $3 or username_key = $2) t),
            'invitations', (select coalesce(jsonb_agg(t), '[]') from (
                select email, created_at as "createdAt", used_at as "usedAt" from invitations where lower(email) = $3) t),
            'audit', (select coalesce(jsonb_agg(t), '[]') from (
                select sequence, at, kind, subject, actor, data::jsonb as data
                from audit where subject = $1::text or actor = $1::text order by sequence) t))"#,
    )
    .bind(person.user_id)
    .bind(username_key)
    .bind(email_key)
    .fetch_one(pool)
    .await
}

/// What is kept, by name, each with the statement that removes it.
const TRACES: [(&str, &str); 14] = [
    ("credentials", "delete from credentials where user_id = $1"),
    ("lastKnownRights", "delete from grants where user_id = $1"),
    ("passkeys", "delete from passkeys where user_id = $1"),
    ("oneTimePasswords", "delete from totp where user_id = $1"),
    ("recoveryCodes", "delete from recovery_codes where user_id = $1"),
    ("apiKeys", "delete from api_keys where owner = $1::text and owner_kind = 'user'"),
    ("consents", "delete from consents where user_id = $1"),
    ("externalLogins", "delete from external_links where user_id = $1"),
    ("authorizationCodes", "delete from authorization_codes where user_id = $1"),
    ("deviceCodes", "delete from device_codes where user_id = $1"),
    ("links", "delete from links where user_id = $1"),
    ("delegations", "delete from delegations where subject = $1::text or actor = $1::text"),
    // What hangs on a session goes with it.
    ("sessions", "delete from sessions where user_id = $1"),
    ("answers", "delete from idempotency_keys where position(convert_to($1::text, 'UTF8') in body) > 0"),
];

/// By an address or a name alone.
const TRACES_OF_NAMES: [(&str, &str); 3] = [
    ("registrations", "delete from registrations where username_key = $1 or email_key = $2"),
    ("invitations", "update invitations set email = null where lower(email) = $2 and $1::text is not null"),
    ("mailRequests", "delete from mail_requests where email_key = $2 and $1::text is not null"),
];

/// Ids of API keys that are good: their tokens are to be ended.
pub(crate) async fn api_keys(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar("select id from api_keys where owner = $1::text and owner_kind = 'user' and revoked_at is null")
        .bind(user_id)
        .fetch_all(connection)
        .await
}

/// Removes all of it but the audit record.
pub(crate) async fn erase(
    connection: &mut PgConnection,
    person: &Person,
    username_key: &str,
    email_key: &str,
) -> sqlx::Result<Erased> {
    let mut erased = Erased::default();
    for (what, sql) in TRACES {
        let gone = sqlx::query(sql).bind(person.user_id).execute(&mut *connection).await?.rows_affected();
        erased = erased.with(what, gone);
    }
    for (what, sql) in TRACES_OF_NAMES {
        let gone = sqlx::query(sql).bind(username_key).bind(email_key).execute(&mut *connection).await?.rows_affected();
        erased = erased.with(what, gone);
    }
    Ok(erased)
}
