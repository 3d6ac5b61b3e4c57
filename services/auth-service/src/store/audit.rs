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

/// Newest first, before a sequence number, perhaps of one subject.
pub(crate) async fn list(
    pool: &PgPool,
    before: Option<i64>,
    subject: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<AuditEntry>> {
    sqlx::query_as(
        "select sequence, at, kind, subject, actor, data, prev_hash, hash from audit
         where ($1::bigint is null or sequence < $1) and ($2::text is null or subject = $2)
         order by sequence desc limit $3",
    )
    .bind(before)
    .bind(subject)
    .bind(limit)
    .fetch_all(pool)
    .await
}
