//! Short messages between instances, by Postgres LISTEN and NOTIFY: something is ready, a lease ended, a topic changed. They
//! only save waiting: one that is lost is made up for by looking.

use std::{collections::HashSet, time::Duration};

use kronos_common::service::Context;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::store::Store;

const CHANNEL: &str = "kronos_messaging";
/// Signals that wait to be sent; more are dropped.
const QUEUE: usize = 8192;
const BATCH: usize = 1000;
/// How long signals gather, so that a busy group costs few notifications.
const GATHER: Duration = Duration::from_millis(2);

/// What one instance tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Signal {
    /// The group has messages to hand out.
    Ready(Uuid),
    /// A subscriber holds a lease no more.
    Released { subscriber_id: Uuid, lease_id: Uuid },
    /// A topic of this name was deleted.
    Deleted(String),
    /// The request of this message has a reply.
    Replied(Uuid),
    /// Signals may have been lost. Never sent.
    Resumed,
}

impl Signal {
    fn encode(&self, from: Uuid) -> Option<String> {
        match self {
            Self::Ready(group_id) => Some(format!("{from} ready {group_id}")),
            Self::Released { subscriber_id, lease_id } => Some(format!("{from} released {subscriber_id} {lease_id}")),
            Self::Deleted(name) => Some(format!("{from} deleted {name}")),
            Self::Replied(message_id) => Some(format!("{from} replied {message_id}")),
            Self::Resumed => None,
        }
    }

    fn decode(text: &str) -> Option<(Uuid, Self)> {
        let mut words = text.split(' ');
        let from = words.next()?.parse().ok()?;
        let signal = match words.next()? {
            "ready" => Self::Ready(words.next()?.parse().ok()?),
            "released" => {
                Self::Released { subscriber_id: words.next()?.parse().ok()?, lease_id: words.next()?.parse().ok()? }
            }
            "replied" => Self::Replied(words.next()?.parse().ok()?),
            "deleted" => Self::Deleted(words.next()?.to_owned()),
            _ => return None,
        };
        Some((from, signal))
    }
}

/// The sending side; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Signals(mpsc::Sender<Signal>);

impl Signals {
    /// Starts the sender, for the instance `own`.
    pub(crate) fn start(store: Store, own: Uuid, context: &Context) -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let shutdown = context.shutdown.clone();
        context.spawn("signals", async move {
            let mut gathered = Vec::new();
            loop {
                tokio::select! {
                    count = receiver.recv_many(&mut gathered, BATCH) => if count == 0 { return },
                    // What is under way then is told by nobody; the others look.
                    () = shutdown.cancelled() => return,
                }
                tokio::time::sleep(GATHER).await;
                while gathered.len() < BATCH
                    && let Ok(signal) = receiver.try_recv()
                {
                    gathered.push(signal);
                }
                let distinct: HashSet<Signal> = gathered.drain(..).collect();
                let payloads: Vec<String> = distinct.iter().filter_map(|signal| signal.encode(own)).collect();
                if let Err(error) = store.notify(CHANNEL, &payloads).await {
                    tracing::debug!(%error, "signals were not sent");
                }
            }
        });
        Self(sender)
    }

    /// Tells the others soon. Dropped when too many wait.
    pub(crate) fn send(&self, signal: Signal) {
        let _ = self.0.try_send(signal);
    }
}

/// Calls `handle` for each signal of another instance, until shutdown.
pub(crate) async fn listen(store: Store, own: Uuid, context: Context, handle: impl Fn(Signal)) {
    let listening = async {
        loop {
            if let Err(error) = listen_once(&store, own, &handle).await {
                tracing::debug!(%error, "signals can't be heard");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! { () = listening => {}, () = context.shutdown.cancelled() => {} }
}

async fn listen_once(store: &Store, own: Uuid, handle: &impl Fn(Signal)) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&store.pool).await?;
    listener.listen(CHANNEL).await?;
    handle(Signal::Resumed);
    loop {
        match listener.try_recv().await? {
            Some(notification) => match Signal::decode(notification.payload()) {
                Some((from, signal)) if from != own => handle(signal),
                _ => {}
            },
            None => handle(Signal::Resumed),
        }
    }
}
