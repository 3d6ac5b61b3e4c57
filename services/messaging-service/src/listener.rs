//! A subscriber's end of a tail: what it gets, and from where.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};

/// What a subscriber without group gets.
#[derive(Debug, Clone)]
pub(crate) enum Tailed {
    /// A message, as JSON, and the token to go on after it.
    Message { json: Arc<str>, token: Option<Arc<str>> },
    /// Some messages, of unknown number, may be missing here.
    Gap,
}

/// Listens for a topic.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Where it begins, as a token.
    pub(crate) begins: String,
    pub(crate) source: Source,
}

/// From where.
#[derive(Debug)]
pub(crate) enum Source {
    /// To what comes.
    Live(broadcast::Receiver<Tailed>),
    /// For itself.
    Own(mpsc::Receiver<Tailed>),
}

impl Listener {
    /// The next one. `None`: the topic is gone, or the service ends.
    pub(crate) async fn next(&mut self) -> Option<Tailed> {
        match &mut self.source {
            Source::Own(receiver) => receiver.recv().await,
            Source::Live(receiver) => match receiver.recv().await {
                Ok(tailed) => Some(tailed),
                Err(broadcast::error::RecvError::Lagged(_)) => Some(Tailed::Gap),
                Err(broadcast::error::RecvError::Closed) => None,
            },
        }
    }
}
