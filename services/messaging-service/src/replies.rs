//! Who waits at this instance for the reply to a request. The reply itself is in Postgres; here is only the bell.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use crate::store::{Error, Request, Store};

/// How often a waiter looks by itself: a signal may be lost.
const LOOK: Duration = Duration::from_millis(500);

/// The waiters; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replies(Arc<Mutex<HashMap<Uuid, Arc<Notify>>>>);

/// Waits for one reply; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    message_id: Uuid,
    bell: Arc<Notify>,
    replies: Replies,
}

impl Replies {
    /// Waits for the reply to a message. To be called before the message is published.
    pub(crate) fn wait_for(&self, message_id: Uuid) -> Waiter {
        let bell = Arc::new(Notify::new());
        self.waiters().insert(message_id, bell.clone());
        Waiter { message_id, bell, replies: self.clone() }
    }

    /// There is a reply to this message.
    pub(crate) fn ring(&self, message_id: Uuid) {
        if let Some(bell) = self.waiters().get(&message_id) {
            bell.notify_one();
        }
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// The request with its reply; without one when the time is over. `None`: the topic was deleted.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn reply(&self, store: &Store, deadline: Instant) -> Result<Option<Request>, Error> {
        loop {
            let over = Instant::now() >= deadline;
            let found = store.request(self.message_id).await?;
            if over || found.as_ref().is_none_or(|request| request.reply.is_some() || request.expired) {
                return Ok(found);
            }
            let look = (Instant::now() + LOOK).min(deadline);
            let _ = tokio::time::timeout_at(look, self.bell.notified()).await;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.replies.waiters().remove(&self.message_id);
    }
}
