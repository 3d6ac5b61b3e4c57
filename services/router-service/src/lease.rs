//! The Redis side of the limits: one task that takes leases of tokens in batches, and counts the gateways that share them.
//! Which request gets a token is `limit`'s work.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use kronos_common::{redis::RedisStore, service::Context};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::limit::Quota;

/// Takes up to `want` tokens and puts `back` some; one key, in one step, by the server's clock. No rounding up: half a token
/// is none (a thousandth makes up for the precision of the time in microseconds).
const SCRIPT: &str = r"
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local period, requests, want, back = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local step = period / requests
-- how far ahead of its rate a client may be
local ahead = step * tonumber(ARGV[5])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
arrival = math.max(arrival - back * step, now)
local room = math.floor((now + ahead - arrival) / step + 0.001)
local grant = math.max(math.min(want, room), 0)
arrival = arrival + grant * step
if arrival > now then
  redis.call('SET', KEYS[1], string.format('%.3f', arrival), 'PX', math.ceil((arrival - now) / 1000))
else
  redis.call('DEL', KEYS[1])
end
local wait = 0
if grant == 0 then wait = math.max(math.ceil(arrival + step - now - ahead), 1) end
return {grant, math.max(room - grant, 0), wait, math.ceil(arrival - now)}
";

/// How often an instance says that it is there, and how long it is believed.
const HEARTBEAT: Duration = Duration::from_secs(5);
const BELIEVED: Duration = Duration::from_secs(16);
/// Orders that wait; more are not taken, and count as Redis being away.
const QUEUE: usize = 8192;
const BATCH: usize = 256;

/// What Redis gave.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    pub tokens: u32,
    /// Left in Redis.
    pub remaining: u32,
    /// If none were given: until there is one.
    pub wait_us: u64,
    /// Until the allowance is whole.
    pub whole_us: u64,
}

/// What to do with a lease that nobody waits for.
pub type Later = Box<dyn FnOnce(Option<Granted>) + Send>;

/// A wish for tokens, or tokens brought back.
pub struct Order {
    pub key: String,
    pub quota: Quota,
    pub want: u32,
    pub back: u32,
    pub answer: Option<oneshot::Sender<Granted>>,
    pub later: Option<Later>,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("want", &self.want).field("back", &self.back).finish_non_exhaustive()
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        if let Some(later) = self.later.take() {
            later(None);
        }
    }
}

/// Where tokens are ordered.
#[derive(Debug, Clone)]
pub struct Leases {
    orders: mpsc::Sender<Order>,
    instances: Arc<AtomicU32>,
    deadline: Duration,
}

impl Leases {
    /// Starts the task.
    pub fn start(store: RedisStore, deadline: Duration, context: &Context) -> Self {
        let (orders, queue) = mpsc::channel(QUEUE);
        let instances = Arc::new(AtomicU32::new(1));
        let worker = Worker { store, deadline, instances: Arc::clone(&instances), id: Uuid::now_v7().to_string() };
        let shutdown = context.shutdown.clone();
        // Not among the context's tasks: requests that are under way at the drain want tokens too. It ends when the last
        // limiter is gone.
        tokio::spawn(async move {
            let leave = async {
                shutdown.cancelled().await;
                worker.leave().await;
                std::future::pending::<()>().await;
            };
            tokio::select! { () = worker.run(queue) => {}, () = leave => {} }
        });
        Self { orders, instances, deadline }
    }

    /// Gateways that share the limits now, or did when Redis was last seen; at least one.
    pub fn instances(&self) -> u32 {
        self.instances.load(Relaxed).max(1)
    }

    /// Asks for tokens; `None` if Redis does not answer in time.
    pub async fn order(&self, key: String, quota: Quota, want: u32) -> Option<Granted> {
        let (answer, granted) = oneshot::channel();
        let order = Order { key, quota, want, back: 0, answer: Some(answer), later: None };
        self.orders.try_send(order).ok()?;
        tokio::time::timeout(self.deadline, granted).await.ok()?.ok()
    }

    /// Asks for tokens or brings some back, without waiting.
    pub fn order_later(&self, order: Order) {
        // A full queue drops the order, which tells `later`.
        let _ = self.orders.try_send(order);
    }
}

struct Worker {
    store: RedisStore,
    deadline: Duration,
    instances: Arc<AtomicU32>,
    id: String,
}

impl Worker {
    async fn run(&self, mut queue: mpsc::Receiver<Order>) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                _ = heartbeat.tick() => {
                    match tokio::time::timeout(Duration::from_secs(1), self.beat()).await {
                        Ok(Ok(count)) => self.instances.store(count, Relaxed),
                        Ok(Err(_)) | Err(_) => tracing::debug!("heartbeat was not heard"),
                    }
                }
                count = queue.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    // Whoever is not answered goes on with the local share.
                    let pipe = self.pipe(&batch);
                    if let Ok(Ok(grants)) = tokio::time::timeout(self.deadline, self.lease(pipe)).await {
                        for (order, granted) in batch.iter_mut().zip(grants) {
                            if let Some(answer) = order.answer.take() {
                                let _ = answer.send(granted);
                            }
                            if let Some(later) = order.later.take() {
                                later(Some(granted));
                            }
                        }
                    }
                    batch.clear();
                }
            }
        }
    }

    fn pipe(&self, batch: &[Order]) -> redis::Pipeline {
        let mut pipe = redis::pipe();
        for order in batch {
            pipe.cmd("EVAL")
                .arg(SCRIPT)
                .arg(1)
                .arg(self.store.key(format_args!("limit:{}", order.key)))
                .arg(order.quota.period_us)
                .arg(order.quota.requests)
                .arg(order.want)
                .arg(order.back)
                .arg(order.quota.burst);
        }
        pipe
    }

    async fn lease(&self, pipe: redis::Pipeline) -> anyhow::Result<Vec<Granted>> {
        let mut connection = self.store.connection().await?;
        let answers: Vec<(i64, i64, i64, i64)> = pipe.query_async(&mut connection).await?;
        let small = |number: i64| u32::try_from(number).unwrap_or(0);
        let large = |number: i64| u64::try_from(number).unwrap_or(0);
        let granted = |(tokens, remaining, wait, whole)| Granted {
            tokens: small(tokens),
            remaining: small(remaining),
            wait_us: large(wait),
            whole_us: large(whole),
        };
        Ok(answers.into_iter().map(granted).collect())
    }

    async fn beat(&self) -> anyhow::Result<u32> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_secs_f64();
        let key = self.store.key("gateway:instances");
        let mut connection = self.store.connection().await?;
        let (count,): (u32,) = redis::pipe()
            .cmd("ZADD")
            .arg(&key)
            .arg(now)
            .arg(&self.id)
            .ignore()
            .cmd("ZREMRANGEBYSCORE")
            .arg(&key)
            .arg("-inf")
            .arg(now - BELIEVED.as_secs_f64())
            .ignore()
            .cmd("EXPIRE")
            .arg(&key)
            .arg(60)
            .ignore()
            .cmd("ZCARD")
            .arg(&key)
            .query_async(&mut connection)
            .await?;
        Ok(count)
    }

    async fn leave(&self) {
        let left = async {
            let mut connection = self.store.connection().await?;
            let key = self.store.key("gateway:instances");
            redis::cmd("ZREM").arg(key).arg(&self.id).query_async::<()>(&mut connection).await?;
            anyhow::Ok(())
        };
        // Without the word it is forgotten a little later.
        let _ = tokio::time::timeout(Duration::from_millis(200), left).await;
    }
}
