//! Topics by name, remembered for a second, so that a publish costs no query. Another instance's change is told by a
//! signal; the second is for signals that are lost.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use kronos_common::problem::{Problem, Result};

use crate::{
    store::{Error, Store},
    topic::{Name, Topic},
};

const FRESH: Duration = Duration::from_secs(1);
/// Topics that are remembered; at that many the memory begins anew.
const MOST: usize = 10_000;

/// A topic, and when it was last read.
type Known = (Arc<Topic>, Instant);

/// The memory; clones share it.
#[derive(Clone)]
pub(crate) struct Catalog {
    store: Store,
    known: Arc<RwLock<HashMap<String, Known>>>,
}

impl Catalog {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, known: Arc::default() }
    }

    /// The topic of this name. While the database is away, the one last known.
    ///
    /// # Errors
    /// 404 `unknown_topic`.
    pub(crate) async fn find(&self, name: &str) -> Result<Arc<Topic>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some((topic, seen)) = &known
            && seen.elapsed() < FRESH
        {
            return Ok(topic.clone());
        }
        // A name that can't be one is not asked for.
        if Name::try_from(name.to_owned()).is_err() {
            return Err(unknown());
        }
        match self.store.topic_by_name(name).await {
            Ok(Some(topic)) => Ok(self.remember(topic)),
            Ok(None) => {
                self.forget(name);
                Err(unknown())
            }
            Err(error) => stale(known, error),
        }
    }

    /// What was just created or read.
    pub(crate) fn remember(&self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(topic.name.clone(), (topic.clone(), Instant::now()));
        topic
    }

    /// It was deleted.
    pub(crate) fn forget(&self, name: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

fn stale(known: Option<Known>, error: Error) -> Result<Arc<Topic>> {
    match known {
        Some((topic, _)) if kronos_common::postgres::is_unavailable(&error) => Ok(topic),
        _ => Err(error.into()),
    }
}

/// 404 `unknown_topic`.
pub(crate) fn unknown() -> Problem {
    Problem::new(
        axum::http::StatusCode::NOT_FOUND,
        "unknown_topic",
        "there is no such topic: create it first, see POST /topics",
    )
}
