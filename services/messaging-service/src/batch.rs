//! Group commit: many callers ask one by one, one worker answers whatever has gathered in one go. While a batch is under
//! way the next one gathers, so there is no timer, and a lone caller waits for nobody.

use std::sync::Arc;

use kronos_common::{postgres, problem::Problem};
use tokio::sync::{mpsc, oneshot};

/// Questions that may wait; then callers do.
const QUEUE: usize = 4096;

/// The callers' side; the worker ends with the last of its clones.
#[derive(Debug)]
pub(crate) struct Batcher<Q, A> {
    sender: mpsc::Sender<Asked<Q, A>>,
}

type Asked<Q, A> = (Q, oneshot::Sender<Result<A, Failure>>);

/// Why a whole batch failed; all its callers share it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the database refused a batch")]
    Store(#[source] Arc<sqlx::Error>),
    #[error("the worker of batches is gone")]
    Gone,
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Store(error) if postgres::is_unavailable(error) => {
                Self::unavailable("database", std::time::Duration::from_secs(2)).caused_by(failure)
            }
            _ => Self::internal(failure),
        }
    }
}

impl<Q, A> Clone for Batcher<Q, A> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<Q: Send + 'static, A: Send + 'static> Batcher<Q, A> {
    /// Starts the worker. `work` answers at most `largest` questions, each at its place.
    pub(crate) fn start<F, W>(largest: usize, work: W) -> Self
    where
        F: Future<Output = Result<Vec<A>, sqlx::Error>> + Send,
        W: Fn(Vec<Q>) -> F + Send + Sync + 'static,
    {
        let (sender, mut receiver) = mpsc::channel::<Asked<Q, A>>(QUEUE);
        tokio::spawn(async move {
            let mut gathered = Vec::new();
            while receiver.recv_many(&mut gathered, largest).await > 0 {
                let (questions, callers): (Vec<Q>, Vec<_>) = gathered.drain(..).unzip();
                match work(questions).await {
                    Ok(answers) => {
                        for (caller, answer) in callers.into_iter().zip(answers) {
                            // A caller that is gone needs no answer.
                            let _ = caller.send(Ok(answer));
                        }
                    }
                    Err(error) => {
                        let failure = Failure::Store(Arc::new(error));
                        for caller in callers {
                            let _ = caller.send(Err(failure.clone()));
                        }
                    }
                }
            }
        });
        Self { sender }
    }

    /// Asks and waits.
    ///
    /// # Errors
    /// The batch failed.
    pub(crate) async fn ask(&self, question: Q) -> Result<A, Failure> {
        let (caller, answer) = oneshot::channel();
        self.sender.send((question, caller)).await.map_err(|_| Failure::Gone)?;
        answer.await.unwrap_or(Err(Failure::Gone))
    }
}
