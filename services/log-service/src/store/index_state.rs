//! How far the index has come: the checkpoint, the turn of one instance at a time, and quarantine.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, PgTransaction};

use super::lines;
use crate::line::Line;

const INDEXER_LOCK: i64 = 0x6b72_6f6e_6964_7821;

/// One instance's turn to index: a transaction that holds the lock.
#[derive(Debug)]
pub struct Turn {
    tx: PgTransaction<'static>,
    pub seq: i64,
}

/// How far the index is behind the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Progress {
    /// Every line up to this seq is in the index.
    pub indexed: i64,
    /// The last seq.
    pub stored: i64,
    /// When the oldest line that is not in the index arrived.
    pub waiting_since: Option<DateTime<Utc>>,
    /// When the youngest line that is in the index arrived.
    pub indexed_up_to: Option<DateTime<Utc>>,
}

/// Takes the turn, if no other instance has it. An index that lives in another `cluster` than the checkpoint says is
/// empty, so the checkpoint begins anew.
///
/// # Errors
/// Of the database.
pub async fn take_turn(pool: &PgPool, cluster: &str) -> sqlx::Result<Option<Turn>> {
    let mut tx = pool.begin().await?;
    let (mine,): (bool,) =
        sqlx::query_as("select pg_try_advisory_xact_lock($1)").bind(INDEXER_LOCK).fetch_one(&mut *tx).await?;
    if !mine {
        return Ok(None);
    }
    let (seq, known): (i64, Option<String>) =
        sqlx::query_as("select seq, cluster from index_checkpoint").fetch_one(&mut *tx).await?;
    let seq = match known {
        Some(known) if known == cluster => seq,
        known => {
            tracing::info!(known, cluster, "index is in another cluster than before, filling it from the first line");
            sqlx::query("update index_checkpoint set seq = 0, cluster = $1").bind(cluster).execute(&mut *tx).await?;
            0
        }
    };
    Ok(Some(Turn { tx, seq }))
}

impl Turn {
    /// The next lines to index.
    ///
    /// # Errors
    /// Of the database.
    pub async fn next(&mut self, limit: u32) -> sqlx::Result<Vec<Line>> {
        lines::after_in(&mut self.tx, self.seq, i64::from(limit)).await
    }

    /// Ends the turn without progress.
    ///
    /// # Errors
    /// Of the database.
    pub async fn end(self) -> sqlx::Result<()> {
        self.tx.commit().await
    }

    /// Notes that the index took all lines up to `seq`, but for `refused` (seq and reason), and ends the turn.
    ///
    /// # Errors
    /// Of the database; then the same lines come again, which the index recognises.
    pub async fn finish(mut self, seq: i64, refused: &[(i64, String)]) -> sqlx::Result<()> {
        for (seq, reason) in refused {
            quarantine(&mut self.tx, "index", &seq.to_string(), reason, None).await?;
        }
        sqlx::query("update index_checkpoint set seq = $1, updated_at = now()")
            .bind(seq)
            .execute(&mut *self.tx)
            .await?;
        self.tx.commit().await
    }
}

/// Keeps what could not be taken, with the reason.
///
/// # Errors
/// Of the database.
pub async fn quarantine(
    connection: &mut sqlx::PgConnection,
    origin: &str,
    reference: &str,
    reason: &str,
    excerpt: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into quarantine (origin, reference, reason, excerpt) values ($1, $2, $3, $4)
         on conflict on constraint quarantine_reference_unique do nothing",
    )
    .bind(origin)
    .bind(reference)
    .bind(reason)
    .bind(excerpt)
    .execute(connection)
    .await?;
    Ok(())
}

/// Drops what has been in quarantine since before `oldest`.
///
/// # Errors
/// Of the database.
pub async fn forget_quarantine(pool: &PgPool, oldest: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query("delete from quarantine where created_at < $1").bind(oldest).execute(pool).await?;
    Ok(done.rows_affected())
}

/// How far the index is behind.
///
/// # Errors
/// Of the database.
pub async fn progress(pool: &PgPool) -> sqlx::Result<Progress> {
    sqlx::query_as(
        "select checkpoint.seq as indexed,
                greatest((select max(seq) from lines), checkpoint.seq) as stored,
                (select received_at from lines where lines.seq > checkpoint.seq order by lines.seq limit 1) as waiting_since,
                (select received_at from lines where lines.seq <= checkpoint.seq order by lines.seq desc limit 1) as indexed_up_to
         from index_checkpoint checkpoint",
    )
    .fetch_one(pool)
    .await
}
