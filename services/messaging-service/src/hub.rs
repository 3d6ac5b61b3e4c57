//! Hand-out: for each group with subscribers at this instance one task, which leases rows for all of them in one statement
//! and passes them on. It is woken by the reader of the broker, by ended leases and by other instances' signals, and looks by
//! itself now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::Utc;
use kronos_common::service::Context;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config::Deliver,
    counts::{Happened, Step},
    delivery::Receipt,
    kafka::Kafka,
    message::{Delivered, raw, render},
    rabbit::Rabbit,
    reader::Reader,
    seats::{Handed, Seats},
    signals::{Signal, Signals},
    store::{Ended, Leased, Store},
    telemetry::Metrics,
    topic::{Group, Topic},
    vault::Vault,
};

/// How long a group without subscribers is still read for: until the next poll, mostly.
const LINGER: Duration = Duration::from_secs(15);
/// At shutdown: so long after the last one nobody else is expected to leave.
const LAST_LEAVER: Duration = Duration::from_millis(300);
/// Only after such a silence a hub asks when the next message is due: in a busy group the next hand-out comes sooner.
const QUIET: Duration = Duration::from_millis(2);
/// After a failure of the database.
const PAUSE: Duration = Duration::from_millis(500);

/// All groups of this instance; clones share them.
#[derive(Clone)]
pub(crate) struct Hubs(Arc<Inner>);

struct Inner {
    instance: Uuid,
    store: Store,
    rabbit: Rabbit,
    kafka: Kafka,
    deliver: Deliver,
    context: Context,
    metrics: Metrics,
    signals: Signals,
    vault: Vault,
    hubs: Mutex<HashMap<Uuid, Arc<Hub>>>,
    leavers: mpsc::UnboundedSender<Leaver>,
}

/// One group at this instance.
pub(crate) struct Hub {
    pub(crate) topic: Arc<Topic>,
    pub(crate) group: Group,
    seats: Mutex<Seats>,
    woken: Notify,
    /// Rows were handed out, so the reader may have room.
    pub(crate) taken: Notify,
    /// Nobody waits here any more.
    pub(crate) ended: CancellationToken,
}

/// How long a hub waits when it has handed out what it could, unless it is woken.
enum Rest {
    For(Duration),
    /// Until the next of the messages that wait for their time is due.
    UntilDue,
}

/// What a subscriber leaves behind.
struct Leaver {
    subscriber_id: Uuid,
    unread: Vec<Receipt>,
}

/// A subscriber's end of the hand-out. When dropped, what it has not read goes back at once; when dropped because the service
/// ends, also what it has read and not acknowledged.
pub(crate) struct Subscription {
    pub(crate) subscriber_id: Uuid,
    /// What was read stays with the subscriber, whatever happens.
    pub(crate) keep: bool,
    hub: Arc<Hub>,
    receiver: mpsc::Receiver<Handed>,
    leavers: mpsc::UnboundedSender<Leaver>,
}

impl Hubs {
    pub(crate) fn new(
        instance: Uuid,
        (store, rabbit, kafka): (Store, Rabbit, Kafka),
        deliver: Deliver,
        (metrics, signals, vault): (Metrics, Signals, Vault),
        context: &Context,
    ) -> Self {
        let (leavers, mut left) = mpsc::unbounded_channel::<Leaver>();
        let hubs = Self(Arc::new(Inner {
            instance,
            store,
            rabbit,
            kafka,
            deliver,
            context: context.clone(),
            metrics,
            signals,
            vault,
            hubs: Mutex::default(),
            leavers,
        }));
        let tidying = hubs.clone();
        context.spawn("leavers", async move {
            let mut gathered = Vec::new();
            let shutdown = tidying.0.context.shutdown.clone();
            loop {
                tokio::select! {
                    _ = left.recv_many(&mut gathered, 256) => {}
                    () = shutdown.cancelled() => break,
                }
                tidying.tidy(std::mem::take(&mut gathered)).await;
            }
            tidying.hand_all_back(&mut left).await;
        });
        hubs
    }

    /// Joins a group. A subscriber may hold `window` messages at a time.
    pub(crate) fn join(&self, topic: &Arc<Topic>, group: &Group, principal: &str, window: usize) -> Subscription {
        let subscriber_id = Uuid::now_v7();
        let mut hubs = self.hubs();
        let hub = hubs.entry(group.group_id).or_insert_with(|| self.start(topic, group)).clone();
        let receiver = hub.seats().add(subscriber_id, principal.to_owned(), window, self.0.deliver.window_bytes);
        drop(hubs);
        hub.woken.notify_one();
        Subscription { subscriber_id, keep: false, hub, receiver, leavers: self.0.leavers.clone() }
    }

    /// Leases ended, wherever they were held: their subscribers may get more, and what is ready again is handed out.
    pub(crate) fn released(&self, ended: &[Ended], outcome: &str) {
        for end in ended {
            self.count(end, outcome);
            let hub = self.hubs().get(&end.group_id).cloned();
            if let Some(subscriber_id) = end.subscriber_id {
                let here = hub.as_ref().is_some_and(|hub| hub.seats().release(subscriber_id, end.lease_id));
                if !here {
                    self.0.signals.send(Signal::Released { subscriber_id, lease_id: end.lease_id });
                }
            }
            if let Some(hub) = &hub {
                hub.woken.notify_one();
            }
            if end.state == "ready" || end.ordered {
                self.0.signals.send(Signal::Ready(end.group_id));
            }
        }
    }

    fn count(&self, end: &Ended, outcome: &str) {
        let (metrics, topic) = (&self.0.metrics, (end.topic_id, end.topic.as_str()));
        metrics.ended.with_label_values(&[&end.kind, outcome]).inc();
        match end.state.as_str() {
            "dead" => {
                metrics.dead.with_label_values(&[&end.kind]).inc();
                metrics.counts.add(topic, Happened::Dead, 1);
            }
            "settled" => {
                let seconds = (Utc::now() - end.published_at).as_seconds_f64().max(0.0);
                metrics.acknowledged_seconds.with_label_values(&[&end.kind]).observe(seconds);
                metrics.counts.took(&end.topic, Step::Acknowledged, seconds);
                metrics.counts.add(topic, Happened::Acknowledged, 1);
            }
            _ => {}
        }
    }

    /// Messages were stored for a group: so many have arrived, and may be handed out, here and elsewhere.
    pub(crate) fn arrived(&self, hub: &Hub, messages: u64) {
        // The ledger knows: it was told in the transaction that stored them.
        self.0.metrics.counts.show(&hub.topic.name, Happened::Arrived, messages);
        self.ready(hub.group.group_id);
    }

    /// Messages of a group may be handed out, here and elsewhere.
    pub(crate) fn ready(&self, group_id: Uuid) {
        self.wake(group_id);
        self.0.signals.send(Signal::Ready(group_id));
    }

    /// What another instance said.
    pub(crate) fn hear(&self, signal: &Signal) {
        match signal {
            Signal::Ready(group_id) => self.wake(*group_id),
            Signal::Released { subscriber_id, lease_id } => {
                let hubs: Vec<Arc<Hub>> = self.hubs().values().cloned().collect();
                for hub in hubs {
                    if hub.seats().release(*subscriber_id, *lease_id) {
                        hub.woken.notify_one();
                    }
                }
            }
            Signal::Resumed => self.hubs().values().for_each(|hub| hub.woken.notify_one()),
            Signal::Deleted(topic) => self.forget(topic),
            // Nothing of a group.
            Signal::Replied(_) => {}
        }
    }

    /// A topic was deleted: its subscribers' streams end.
    pub(crate) fn forget(&self, topic: &str) {
        self.hubs().retain(|_, hub| {
            let stays = hub.topic.name != topic;
            if !stays {
                hub.ended.cancel();
            }
            stays
        });
    }

    /// Its group is gone: its subscribers' streams end.
    pub(crate) fn end(&self, hub: &Arc<Hub>) {
        let mut hubs = self.hubs();
        if hubs.get(&hub.group.group_id).is_some_and(|current| Arc::ptr_eq(current, hub)) {
            hubs.remove(&hub.group.group_id);
        }
        hub.ended.cancel();
    }

    fn wake(&self, group_id: Uuid) {
        if let Some(hub) = self.hubs().get(&group_id) {
            hub.woken.notify_one();
        }
    }

    fn hubs(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Hub>>> {
        self.0.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, topic: &Arc<Topic>, group: &Group) -> Arc<Hub> {
        let hub = Arc::new(Hub {
            topic: topic.clone(),
            group: group.clone(),
            seats: Mutex::default(),
            woken: Notify::new(),
            taken: Notify::new(),
            ended: self.0.context.shutdown.child_token(),
        });
        let reader = Reader {
            instance: self.0.instance,
            store: self.0.store.clone(),
            rabbit: self.0.rabbit.clone(),
            kafka: self.0.kafka.clone(),
            deliver: self.0.deliver.clone(),
            hubs: self.clone(),
            hub: hub.clone(),
        };
        self.0.context.spawn("reader", reader.run());
        let (hubs, served) = (self.clone(), hub.clone());
        self.0.context.spawn("hub", async move { hubs.serve(&served).await });
        hub
    }

    async fn serve(&self, hub: &Arc<Hub>) {
        let mut empty_since = Instant::now();
        loop {
            let rest = if hub.seats().is_empty() {
                if empty_since.elapsed() >= LINGER && self.close(hub) {
                    return;
                }
                Rest::For(LINGER.saturating_sub(empty_since.elapsed()).max(PAUSE))
            } else {
                empty_since = Instant::now();
                self.hand_out(hub).await
            };
            // Not in the middle of a hand-out: what was leased must reach somebody.
            tokio::select! {
                () = hub.woken.notified() => {}
                () = self.rest(hub, rest) => {}
                () = hub.ended.cancelled() => return,
            }
        }
    }

    async fn rest(&self, hub: &Hub, rest: Rest) {
        let pause = match rest {
            Rest::For(pause) => pause,
            Rest::UntilDue => {
                tokio::time::sleep(QUIET).await;
                let next = self.0.store.milliseconds_to_next(hub.group.group_id).await.ok().flatten();
                next.map_or(self.look(), |ms| self.look().min(Duration::from_secs_f64(ms.clamp(0.0, 1e6) / 1000.0)))
            }
        };
        tokio::time::sleep(pause).await;
    }

    fn look(&self) -> Duration {
        Duration::from_millis(self.0.deliver.look_interval_ms)
    }

    /// Ends a hub that is still without subscribers.
    fn close(&self, hub: &Arc<Hub>) -> bool {
        let mut hubs = self.hubs();
        let empty = hub.seats().is_empty();
        if empty {
            hubs.remove(&hub.group.group_id);
            hub.ended.cancel();
        }
        empty
    }

    /// Hands out until nothing is ready or nobody has a free seat; gives when to look again.
    async fn hand_out(&self, hub: &Hub) -> Rest {
        loop {
            let seats = hub.seats().free();
            if seats.is_empty() {
                let corrected = self.correct(hub).await;
                return Rest::For(if corrected { Duration::ZERO } else { self.look() });
            }
            let leased =
                match self.0.store.lease(hub.group.group_id, hub.topic.lease_ms, hub.topic.ageing(), &seats).await {
                    Ok(leased) => leased,
                    Err(error) => {
                        tracing::warn!(topic = hub.topic.name, %error, "messages can't be handed out");
                        return Rest::For(PAUSE);
                    }
                };
            let count = leased.len();
            self.distribute(hub, leased);
            if count > 0 {
                hub.taken.notify_one();
            }
            if count < seats.len() {
                self.correct(hub).await;
                return Rest::UntilDue;
            }
        }
    }

    fn distribute(&self, hub: &Hub, leased: Vec<Leased>) {
        let kind = hub.topic.kind.as_str();
        let now = Utc::now();
        let handed_out = leased.len() as u64;
        self.0.metrics.counts.add((hub.topic.topic_id, &hub.topic.name), Happened::Delivered, handed_out);
        let mut nobodys = Vec::new();
        let mut seats = hub.seats();
        if let Some(last) = leased.last() {
            seats.continue_after(last.subscriber_id);
        }
        for row in leased {
            let receipt = Receipt { delivery_id: row.delivery_id, lease_id: row.lease_id };
            self.0.metrics.delivered.with_label_values(&[kind]).inc();
            if row.attempt == 1 {
                let seconds = (now - row.published_at).as_seconds_f64().max(0.0);
                self.0.metrics.delivery_seconds.with_label_values(&[kind]).observe(seconds);
                self.0.metrics.counts.took(&hub.topic.name, Step::Delivered, seconds);
            }
            let json = render(&Delivered {
                message_id: row.message_id,
                delivery_id: Some(receipt.encode()),
                topic: &hub.topic.name,
                group: Some(&hub.group.name),
                key: row.key.as_deref(),
                payload: raw(&self.0.vault.open(row.sealed, &row.payload)),
                headers: raw(row.headers.as_bytes()),
                traceparent: row.traceparent.as_deref(),
                attempt: row.attempt,
                published_at: row.published_at,
                lease_expires_at: Some(row.lease_expires_at),
            });
            let handed = Handed { receipt, bytes: row.payload.len(), json, lease_expires_at: row.lease_expires_at };
            if !seats.hand(row.subscriber_id, handed) {
                nobodys.push(receipt);
            }
        }
        drop(seats);
        if !nobodys.is_empty() {
            // Fails only at the very end, and then the leases end by themselves.
            let _ = self.0.leavers.send(Leaver { subscriber_id: Uuid::nil(), unread: nobodys });
        }
    }

    /// Asks the database who still holds what; true if somebody has a free seat that was thought taken.
    async fn correct(&self, hub: &Hub) -> bool {
        let holders = hub.seats().full();
        if holders.is_empty() {
            return false;
        }
        match self.0.store.held(&holders).await {
            Ok(held) => hub.seats().correct(&holders, &held),
            Err(_) => false,
        }
    }

    /// What subscribers that left had not read goes back.
    async fn tidy(&self, leavers: Vec<Leaver>) {
        let subscribers: Vec<Uuid> =
            leavers.iter().map(|leaver| leaver.subscriber_id).filter(|id| !id.is_nil()).collect();
        let unread: Vec<Receipt> = leavers.into_iter().flat_map(|leaver| leaver.unread).collect();
        if !unread.is_empty() {
            match self.0.store.hand_back(&unread).await {
                Ok(ended) => self.released(&ended, "handed_back"),
                Err(error) => tracing::warn!(%error, "unread messages wait for the end of their lease"),
            }
        }
        if let Err(error) = self.0.store.delete_subscribers(&subscribers).await {
            tracing::debug!(%error, "subscribers are forgotten later");
        }
    }

    /// At shutdown: what any subscriber of this instance holds goes back, so that others need not wait for the leases' end.
    async fn hand_all_back(&self, left: &mut mpsc::UnboundedReceiver<Leaver>) {
        let mut gathered = Vec::new();
        let hubs: Vec<Arc<Hub>> = self.hubs().drain().map(|(_, hub)| hub).collect();
        for hub in hubs {
            let mut seats = hub.seats();
            for subscriber_id in seats.everybody() {
                gathered.push(Leaver { subscriber_id, unread: seats.remove(subscriber_id) });
            }
        }
        self.tidy(gathered).await;
        // Hand-outs under way come to their end, and streams are dropped.
        while let Ok(Some(leaver)) = tokio::time::timeout(LAST_LEAVER, left.recv()).await {
            self.tidy(vec![leaver]).await;
        }
    }
}

impl Hub {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next message. `None`: the service ends.
    pub(crate) async fn next(&mut self) -> Option<Handed> {
        loop {
            let handed = tokio::select! {
                handed = self.receiver.recv() => handed?,
                () = self.hub.ended.cancelled() => return None,
            };
            // One that lay unread until its lease ended is somebody else's.
            if handed.lease_expires_at > Utc::now() {
                self.hub.woken.notify_one();
                return Some(handed);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let held = self.hub.seats().remove(self.subscriber_id);
        self.receiver.close();
        let mut unread = if self.hub.ended.is_cancelled() && !self.keep { held } else { Vec::new() };
        while let Ok(handed) = self.receiver.try_recv() {
            unread.push(handed.receipt);
        }
        let _ = self.leavers.send(Leaver { subscriber_id: self.subscriber_id, unread });
    }
}
