//! Rights on single topics. A token says what its subject may do everywhere; what a person or a client may do on some topics
//! alone (`messages:publish` on `topic:orders.*`, say) is asked of auth-service and remembered for a moment. The memory is of
//! one epoch: when somebody's rights change, the old token is refused, and the new one is asked about anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kronos_common::{
    identity::{Caller, Client},
    problem::Result,
};
use serde::Deserialize;
use serde_json::json;

use crate::topic::Name;

/// How long an answer is believed: a right may also end by its own date.
const FRESH: Duration = Duration::from_secs(10);
/// Answers that are remembered; at that many the memory begins anew.
const MOST: usize = 20_000;

/// Whom is asked, and what was answered; clones share it.
#[derive(Clone)]
pub(crate) struct Rights {
    auth: Client,
    known: Arc<Mutex<HashMap<Question, (bool, Instant)>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    subject: String,
    epoch: i64,
    permission: &'static str,
    topic: String,
}

#[derive(Deserialize)]
struct Decision {
    allowed: bool,
}

impl Rights {
    pub(crate) fn new(auth: Client) -> Self {
        Self { auth, known: Arc::default() }
    }

    /// Whether a caller who may not do it everywhere may do it on this topic.
    ///
    /// # Errors
    /// 503: auth-service can't be asked.
    pub(crate) async fn may(&self, caller: &Caller, permission: &'static str, topic: &str) -> Result<bool> {
        // What is no name is no resource either.
        if Name::try_from(topic.to_owned()).is_err() {
            return Ok(false);
        }
        let subject = caller.subject().to_owned();
        let question = Question { subject, epoch: caller.claims.epoch, permission, topic: topic.to_owned() };
        if let Some((allowed, asked)) = self.known().get(&question)
            && asked.elapsed() < FRESH
        {
            return Ok(*allowed);
        }
        let asked =
            json!({ "subject": question.subject, "permission": permission, "resource": format!("topic:{topic}") });
        let Decision { allowed } = self.auth.post("/auth/check", &asked).await?;
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(question, (allowed, Instant::now()));
        Ok(allowed)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Question, (bool, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
