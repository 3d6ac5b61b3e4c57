//! The days of the table `lines`: made and dropped without an exclusive lock on it, so that no reader holds up the writers.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use chrono::NaiveDate;
use sqlx::{AssertSqlSafe, PgPool};

/// Days whose partition is known to be there.
#[derive(Debug, Default)]
pub struct Days(Mutex<BTreeSet<NaiveDate>>);

#[derive(sqlx::FromRow)]
struct Partition {
    name: String,
    attached: bool,
    /// A detachment was begun and cut off.
    pending: bool,
}

impl Days {
    /// Makes the partitions of these days.
    ///
    /// # Errors
    /// Of the database.
    pub async fn ensure(&self, pool: &PgPool, days: impl IntoIterator<Item = NaiveDate>) -> sqlx::Result<()> {
        let missing: BTreeSet<NaiveDate> = {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            days.into_iter().filter(|day| !known.contains(day)).collect()
        };
        for day in missing {
            sqlx::query("select ensure_partition($1)").bind(day).execute(pool).await?;
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(day);
        }
        Ok(())
    }

    /// Drops the partitions before this day and says how many.
    ///
    /// # Errors
    /// Of the database; one that a reader still holds is tried again next time.
    pub async fn drop_before(&self, pool: &PgPool, oldest: NaiveDate) -> sqlx::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|day| *day >= oldest);
        let old: Vec<Partition> = sqlx::query_as(
            "select relname::text as name, inhrelid is not null as attached, coalesce(inhdetachpending, false) as pending
             from pg_class left join pg_inherits on inhrelid = oid and inhparent = 'lines'::regclass
             where relnamespace = current_schema()::regnamespace and relkind = 'r'
                 and relname ~ '^lines_[0-9]{8}$' and relname < $1
             order by relname",
        )
        .bind(format!("lines_{}", oldest.format("%Y%m%d")))
        .fetch_all(pool)
        .await?;
        for Partition { name, attached, pending } in &old {
            // The name is `lines_` and eight digits.
            if *attached {
                let how = if *pending { "finalize" } else { "concurrently" };
                let detach = format!("alter table lines detach partition {name} {how}");
                sqlx::query(AssertSqlSafe(detach)).execute(pool).await?;
            }
            sqlx::query(AssertSqlSafe(format!("drop table if exists {name}"))).execute(pool).await?;
        }
        Ok(old.len())
    }
}
