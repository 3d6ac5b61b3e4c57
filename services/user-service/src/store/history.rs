//! What happened to people.

use chrono::{DateTime, Utc};
use kronos_common::problem::Result;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, types::Json};
use utoipa::ToSchema;
use uuid::Uuid;

/// Something that happened to a person.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct HistoryEntry {
    /// Grows.
    pub(crate) sequence: i64,
    pub(crate) at: DateTime<Utc>,
    /// `created`, `updated`, `password-set`, `role-given`, `role-taken`, `role-ended`, `group-joined`, `group-left`.
    pub(crate) what: String,
    /// `subject` and `clientId` of who did it; null: Kronos itself.
    #[schema(value_type = Option<HashMap<String, String>>)]
    pub(crate) by: Option<Json<Value>>,
    /// What was otherwise before, by name; of sealed attributes only that they were.
    #[schema(value_type = Option<HashMap<String, serde_json::Value>>)]
    pub(crate) before: Option<Json<Value>>,
    /// What it became.
    #[schema(value_type = Option<HashMap<String, serde_json::Value>>)]
    pub(crate) after: Option<Json<Value>>,
}

/// What happened to one person: before, and after.
pub(crate) type Happened = (Uuid, Option<Value>, Option<Value>);

/// Writes down what happened to each of these people.
pub(crate) async fn note(
    connection: &mut PgConnection,
    what: &str,
    by: Option<&Value>,
    people: &[Happened],
) -> sqlx::Result<()> {
    let values = |select: fn(&Happened) -> &Option<Value>| -> Vec<Option<Json<&Value>>> {
        people.iter().map(|happened| select(happened).as_ref().map(Json)).collect()
    };
    sqlx::query(
        "insert into user_history (user_id, what, by, before, after)
         select user_id, $1, $2, before, after
         from unnest($3::uuid[], $4::jsonb[], $5::jsonb[]) as t (user_id, before, after)",
    )
    .bind(what)
    .bind(by.map(Json))
    .bind(people.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
    .bind(values(|(_, before, _)| before))
    .bind(values(|(_, _, after)| after))
    .execute(connection)
    .await?;
    Ok(())
}

/// What happened to a person before the entry `before`, the newest first.
pub(crate) async fn list(pool: &PgPool, id: Uuid, before: Option<i64>, count: i64) -> Result<Vec<HistoryEntry>> {
    Ok(sqlx::query_as::<_, HistoryEntry>(
        "select sequence, at, what, by, before, after from user_history
         where user_id = $1 and ($2::bigint is null or sequence < $2) order by sequence desc limit $3",
    )
    .bind(id)
    .bind(before)
    .bind(count)
    .fetch_all(pool)
    .await?)
}
