//! Every SQL statement of this service, by table. It knows no broker and no HTTP.

mod counts;
mod deliveries;
mod failures;
mod groups;
mod leases;
mod pending;
mod requests;
mod schedules;
mod topics;

pub use sqlx::Error;
use sqlx::PgPool;

pub use self::{
    counts::{Counted, Totals},
    deliveries::{Expired, NewDelivery},
    failures::{Copy, DeadFilter, FailedAttempt},
    groups::{Inventory, Position},
    leases::{Ended, Leased, Seat},
    pending::Pending,
    requests::Request,
    schedules::Schedule,
    topics::{QueueCounts, RetiredObject},
};

/// The migrations of this service's schema, after the common ones.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/messaging");

/// The store; clones share the pool.
#[derive(Debug, Clone)]
pub struct Store {
    pub pool: PgPool,
}

impl Store {
    /// Tells every instance; what was told is lost on those that are not connected just now, which is why all look by
    /// themselves too.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn notify(&self, channel: &str, payloads: &[String]) -> Result<(), Error> {
        sqlx::query("select pg_notify($1, payload) from unnest($2::text[]) as t (payload)")
            .bind(channel)
            .bind(payloads)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
