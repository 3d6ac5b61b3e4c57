//! The tables `audit` and `audit_head`, and the outbox beside them: a security event is recorded and told in one transaction.

use chrono::{DateTime, SubsecRound as _, Utc};
use kronos_common::{event::Event, outbox};
use sqlx::{PgConnection, PgPool};

use crate::audit::{AuditEntry, SecurityEvent, canonical, link};

/// Stands for a name that nobody has.
const NOBODY: &str = "unknown";

/// Appends to the chain and to the outbox. Call it last in a transaction: it holds the lock on the chain's end until then.
pub(crate) async fn record(
    connection: &mut PgConnection,
    event: &SecurityEvent,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let type_ = format!("kronos.auth.{}", event.kind);
    let told = Event::new(type_, event.subject.as_deref().unwrap_or(NOBODY), event.data.clone());
    outbox::insert(connection, &told).await?;
    let at = now.trunc_subsecs(6);
    let data = event.data.to_string();
    let (sequence, prev_hash) =
        sqlx::query_as::<_, (i64, Vec<u8>)>("select sequence + 1, hash from audit_head where id = 1 for update")
            .fetch_one(&mut *connection)
            .await?;
    let canonical = canonical(sequence, at, event.kind, event.subject.as_deref(), event.actor.as_deref(), &data);
    let hash = link(&prev_hash, &canonical);
    sqlx::query(
        "with head as (update audit_head set sequence = $1, hash = $9 where id = 1)
         insert into audit (sequence, at, kind, subject, actor, data, canonical, prev_hash, hash)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(sequence)
    .bind(at)
    .bind(event.kind)
    .bind(&event.subject)
    .bind(&event.actor)
    .bind(data)
    .bind(canonical)
    .bind(prev_hash)
    .bind(hash)
    .execute(connection)
    .await?;
    Ok(())
}

/// What is looked for in the record.
#[derive(Debug, Default)]
pub(crate) struct Filter<'a> {
    pub subject: Option<&'a str>,
    pub actor: Option<&'a str>,
    pub kind: Option<&'a str>,
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
}

/// Newest first, before a sequence number.
pub(crate) async fn list(
    pool: &PgPool,
    before: Option<i64>,
    filter: &Filter<'_>,
    limit: i64,
) -> sqlx::Result<Vec<AuditEntry>> {
    let texts = [filter.subject, filter.actor, filter.kind];
    if texts.into_iter().flatten().any(|text| !super::is_storable(text)) {
        return Ok(Vec::new());
    }
    sqlx::query_as(
        "select sequence, at, kind, subject, actor, data, prev_hash, hash from audit
         where ($1::bigint is null or sequence < $1) and ($2::text is null or subject = $2)
             and ($3::text is null or actor = $3) and ($4::text is null or kind = $4)
             and ($5::timestamptz is null or at >= $5) and ($6::timestamptz is null or at < $6)
         order by sequence desc limit $7",
    )
    .bind(before)
    .bind(filter.subject)
    .bind(filter.actor)
    .bind(filter.kind)
    .bind(filter.since)
    .bind(filter.until)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Oldest first, after one sequence number, up to and with another.
pub(crate) async fn between(pool: &PgPool, after: i64, last: i64, limit: i64) -> sqlx::Result<Vec<AuditEntry>> {
    sqlx::query_as(
        "select sequence, at, kind, subject, actor, data, prev_hash, hash from audit
         where sequence > $1 and sequence <= $2 order by sequence limit $3",
    )
    .bind(after)
    .bind(last)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Sequence number and hash of the end of the chain.
pub(crate) async fn head(pool: &PgPool) -> sqlx::Result<(i64, Vec<u8>)> {
    sqlx::query_as("select sequence, hash from audit_head where id = 1").fetch_one(pool).await
}
