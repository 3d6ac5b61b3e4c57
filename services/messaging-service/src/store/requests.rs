//! Table `requests`: messages that ask for a reply, and the replies.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Store};
use crate::topic::Topic;

/// A request, and its reply once there is one.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Request {
    pub message_id: Uuid,
    pub topic: String,
    pub principal: String,
    pub expires_at: DateTime<Utc>,
    /// Its time is over.
    pub expired: bool,
    pub reply: Option<Vec<u8>>,
    pub reply_headers: Option<String>,
    pub replied_by: Option<String>,
    pub replied_at: Option<DateTime<Utc>>,
    /// The reply is sealed, or is to be.
    pub sealed: bool,
}

impl Store {
    /// A reply to the message may come until `expires_at`.
    ///
    /// # Errors
    /// Constraint `requests_topic_id_fkey`: the topic was deleted.
    pub async fn insert_request(
        &self,
        message_id: Uuid,
        topic: &Topic,
        principal: &str,
        expires_at: DateTime<Utc>,
    ) -> Result<(), Error> {
        sqlx::query(
            "insert into requests (message_id, topic_id, principal, expires_at, sealed) values ($1, $2, $3, $4, $5)",
        )
        .bind(message_id)
        .bind(topic.topic_id)
        .bind(principal)
        .bind(expires_at)
        .bind(topic.encrypted)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// It was never published.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn delete_request(&self, message_id: Uuid) -> Result<(), Error> {
        sqlx::query("delete from requests where message_id = $1").bind(message_id).execute(&self.pool).await?;
        Ok(())
    }

    /// # Errors
    /// Those of the statement.
    pub async fn request(&self, message_id: Uuid) -> Result<Option<Request>, Error> {
        sqlx::query_as::<_, Request>(
            "select r.message_id, t.name as topic, r.principal, r.expires_at, r.expires_at <= now() as expired, r.reply, \
                    r.reply_headers, r.replied_by, r.replied_at, r.sealed \
             from requests r join topics t using (topic_id) where r.message_id = $1",
        )
        .bind(message_id)
        .fetch_optional(&self.pool)
        .await
    }

    /// Keeps the first reply that comes in time. False: there is no such request, or it has one, or its time is over.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn reply(&self, message_id: Uuid, payload: &[u8], headers: &str, principal: &str) -> Result<bool, Error> {
        let kept = sqlx::query(
            "update requests set reply = $2, reply_headers = $3, replied_by = $4, replied_at = now() \
             where message_id = $1 and reply is null and expires_at > now()",
        )
        .bind(message_id)
        .bind(payload)
        .bind(headers)
        .bind(principal)
        .execute(&self.pool)
        .await?;
        Ok(kept.rows_affected() == 1)
    }

    /// Forgets requests whose time was over an hour ago; gives how many.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn forget_requests(&self, limit: i64) -> Result<u64, Error> {
        let forgotten = sqlx::query(
            "delete from requests where message_id = any (array( \
                 select message_id from requests where expires_at < now() - interval '1 hour' \
                 order by expires_at limit $1 for update skip locked))",
        )
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(forgotten.rows_affected())
    }
}
