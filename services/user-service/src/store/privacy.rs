//! Erasures, and what this service itself holds on a person.

use chrono::{DateTime, Utc};
use kronos_common::{
    privacy::{Erased, Person},
    problem::{Problem, Result},
};
use serde_json::Value;
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::privacy::{Acknowledgement, Erasure};

/// What this service holds on a person beyond the person.
pub(crate) async fn held(pool: &PgPool, id: Uuid) -> Result<Value> {
    Ok(sqlx::query_scalar(
        r#"select jsonb_build_object(
            'profile', (select profile from users where id = $1),
            'externalId', (select external_id from users where id = $1),
            'roles', (select coalesce(jsonb_agg(t), '[]') from (
                select role, resource, expires_at as "expiresAt", created_at as "createdAt"
                from assignments where user_id = $1) t),
            'groups', (select coalesce(jsonb_agg(t), '[]') from (
                select g.id, g.name, m.added_at as "addedAt"
                from group_members m join groups g on g.id = m.group_id where m.user_id = $1) t),
            'imports', (select coalesce(jsonb_agg(t), '[]') from (
                select id, created_at as "createdAt" from imports where by ->> 'subject' = $1::text) t))"#,
    )
    .bind(id)
    .fetch_one(pool)
    .await?)
}

/// Removes what the person's row does not take with it.
pub(crate) async fn erase_rest(connection: &mut PgConnection, person: &Person, key: &str) -> sqlx::Result<Erased> {
    let mut erased = Erased::default();
    let lines = sqlx::query("delete from import_lines where username_key = $1").bind(key);
    erased = erased.with("importLines", lines.execute(&mut *connection).await?.rows_affected());
    let answers = sqlx::query("delete from idempotency_keys where position(convert_to($1::text, 'UTF8') in body) > 0");
    erased = erased.with("answers", answers.bind(person.user_id).execute(&mut *connection).await?.rows_affected());
    let imports = sqlx::query("update imports set by = '{}' where by ->> 'subject' = $1::text").bind(person.user_id);
    Ok(erased.with("imports", imports.execute(connection).await?.rows_affected()))
}

/// Begins an erasure that these services take part in.
pub(crate) async fn begin(
    connection: &mut PgConnection,
    person: &Person,
    by: &Value,
    services: &[&str],
) -> sqlx::Result<()> {
    sqlx::query("insert into erasures (user_id, username, email, by) values ($1, $2, $3, $4)")
        .bind(person.user_id)
        .bind(&person.username)
        .bind(&person.email)
        .bind(Json(by))
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into erasure_parts (user_id, service) select $1, service from unnest($2::text[]) as t (service)",
    )
    .bind(person.user_id)
    .bind(services)
    .execute(connection)
    .await?;
    Ok(())
}

/// The receipt.
pub(crate) async fn find(pool: &PgPool, user_id: Uuid) -> Result<Erasure> {
    let found: Option<(DateTime<Utc>, Option<DateTime<Utc>>)> =
        sqlx::query_as("select requested_at, finished_at from erasures where user_id = $1")
            .bind(user_id)
            .fetch_optional(pool)
            .await?;
    let (requested_at, finished_at) = found.ok_or_else(|| Problem::not_found("erasure"))?;
    let services = sqlx::query_as::<_, Acknowledgement>(
        "select service, acknowledged_at, removed, kept, attempts, error from erasure_parts
         where user_id = $1 order by service",
    )
    .bind(user_id)
    .fetch_all(pool)
    .await?;
    Ok(Erasure { user_id, requested_at, finished_at, services })
}

/// A service that is to be asked.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Part {
    pub(crate) user_id: Uuid,
    pub(crate) service: String,
    pub(crate) username: String,
    pub(crate) email: String,
    pub(crate) attempts: i32,
}

/// Takes the service whose turn it is; if no answer is written down, it is asked again after `again_ms`.
pub(crate) async fn take(pool: &PgPool, again_ms: u64) -> Result<Option<Part>> {
    Ok(sqlx::query_as::<_, Part>(
        "update erasure_parts p
         set attempts = p.attempts + 1, next_at = now() + make_interval(secs => $1::double precision / 1000)
         from erasures e
         where e.user_id = p.user_id and (p.user_id, p.service) in (
             select user_id, service from erasure_parts
             where acknowledged_at is null and next_at <= now() order by next_at limit 1 for update skip locked)
         returning p.user_id, p.service, e.username, e.email, p.attempts",
    )
    .bind(i64::try_from(again_ms).unwrap_or(i64::MAX))
    .fetch_optional(pool)
    .await?)
}

/// Writes down that a service has forgotten the person. After the second time it is done; when all are, the names go.
pub(crate) async fn acknowledge(
    connection: &mut PgConnection,
    part: &Part,
    erased: &Erased,
    again_ms: u64,
) -> sqlx::Result<()> {
    // What was gone before counts as well.
    sqlx::query(
        "update erasure_parts p set
             rounds = rounds + 1, kept = $4, error = null,
             next_at = now() + make_interval(secs => $5::double precision / 1000),
             acknowledged_at = case when rounds >= 1 then now() end,
             removed = (select coalesce(jsonb_object_agg(key, count), '{}') from (
                 select key, sum(value::bigint) as count
                 from (select * from jsonb_each_text(p.removed) union all select * from jsonb_each_text($3)) each_round
                 group by key) added)
         where user_id = $1 and service = $2",
    )
    .bind(part.user_id)
    .bind(&part.service)
    .bind(Json(&erased.removed))
    .bind(Json(&erased.kept))
    .bind(i64::try_from(again_ms).unwrap_or(i64::MAX))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "update erasures set finished_at = now(), username = null, email = null
         where user_id = $1 and finished_at is null
         and not exists (select from erasure_parts p where p.user_id = $1 and p.acknowledged_at is null)",
    )
    .bind(part.user_id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes down why a service could not be asked, and when it is asked again.
pub(crate) async fn failed(pool: &PgPool, part: &Part, error: &str, again_ms: u64) -> Result<()> {
    sqlx::query(
        "update erasure_parts
         set error = $3, next_at = now() + make_interval(secs => $4::double precision / 1000)
         where user_id = $1 and service = $2",
    )
    .bind(part.user_id)
    .bind(&part.service)
    .bind(error)
    .bind(i64::try_from(again_ms).unwrap_or(i64::MAX))
    .execute(pool)
    .await?;
    Ok(())
}

/// How long until the next service is to be asked, in milliseconds, below zero if it is time; `None` if there is none.
pub(crate) async fn next_ms(pool: &PgPool) -> Result<Option<f64>> {
    Ok(sqlx::query_scalar(
        "select (extract(epoch from min(next_at) - now()) * 1000)::double precision from erasure_parts
         where acknowledged_at is null",
    )
    .fetch_one(pool)
    .await?)
}
