//! What both brokers have in common: how a send ends, and whether a broker is trusted to answer in time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Why a broker is not known to have a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// It was never sent.
    #[error("the broker is away: {0}")]
    Away(String),
    /// It may or may not be there.
    #[error("the broker did not confirm: {0}")]
    Unconfirmed(String),
    /// The broker knows of no such queue, exchange or topic.
    #[error("the broker has nowhere to put the message")]
    Unroutable,
    /// The queue has as many messages as it may have.
    #[error("the queue is full")]
    Full,
    /// Larger than the broker takes.
    #[error("the message is too large for the broker")]
    TooLarge,
}

/// Set when a broker let a publish wait in vain: until the relay has got through, others go to the outbox at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suspicion(Arc<AtomicBool>);

impl Suspicion {
    /// Whether publishes should avoid the broker.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// A publish waited in vain.
    pub(crate) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The broker answered.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
