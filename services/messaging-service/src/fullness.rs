//! How full a queue with a maximum length is. Counted at broker, outbox and inventory together at most every [`FRESH`];
//! what this instance accepts in between is added. Several instances may pass over the limit by what they accept in that time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kronos_common::problem::Result;
use uuid::Uuid;

use crate::{rabbit::Rabbit, store::Store, topic::Topic};

const FRESH: Duration = Duration::from_millis(200);
/// Queues that are remembered; at that many the memory begins anew.
const MOST: usize = 10_000;

/// The memory; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Fullness {
    known: Arc<Mutex<HashMap<Uuid, (i64, Instant)>>>,
    counting: Arc<tokio::sync::Mutex<()>>,
}

impl Fullness {
    /// Whether one more message may go into the queue; it is counted then.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn admit(&self, topic: &Topic, most: i64, (store, rabbit): (&Store, &Rabbit)) -> Result<bool> {
        if let Some(admitted) = self.decide(topic, most) {
            return Ok(admitted);
        }
        let _counting = self.counting.lock().await;
        if let Some(admitted) = self.decide(topic, most) {
            return Ok(admitted);
        }
        let (here, there) = tokio::join!(store.waiting_here(topic.topic_id), rabbit.depth(topic));
        // With its broker away, a queue grows in the outbox, whose part is known.
        let depth = here? + there.unwrap_or(0);
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(topic.topic_id, (depth, Instant::now()));
        drop(known);
        Ok(self.decide(topic, most).unwrap_or(true))
    }

    fn decide(&self, topic: &Topic, most: i64) -> Option<bool> {
        let mut known = self.known();
        let (depth, counted) = known.get_mut(&topic.topic_id)?;
        if counted.elapsed() >= FRESH {
            return None;
        }
        let fits = *depth < most;
        *depth += i64::from(fits);
        Some(fits)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, (i64, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
