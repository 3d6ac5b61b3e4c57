//! The consumer: each event has its effect once, failures are retried and then kept, absences cost nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kronos_common::{
    config,
    event::{EXCHANGE, Event},
    events::{Subscription, consume},
    rabbit::{self, Message},
    service::Context,
};
use kronos_testkit::{Proxy, TestDatabase, test_rabbit, wait_until, wait_up_to};
use lapin::{BasicProperties, Channel, message::BasicGetMessage, options::BasicGetOptions, types::AMQPValue};
use serde_json::json;
use sqlx::PgPool;

const QUEUE: &str = "test-service.counted";

struct Fixture {
    database: TestDatabase,
    pool: PgPool,
    context: Context,
    config: config::Rabbit,
    rabbit: rabbit::Connection,
    channel: Channel,
    calls: Arc<AtomicUsize>,
}

impl Fixture {
    async fn new() -> Self {
        let (database, config, context) =
            (TestDatabase::create().await, test_rabbit().await, Context::detached("test"));
        let pool = database.pool("kronos_users").await;
        sqlx::query("create table effects (id text)").execute(&pool).await.unwrap();
        let rabbit = rabbit::Connection::open(&config, &context).await.unwrap();
        rabbit.connected().await;
        let channel = rabbit.confirming_channel().await.unwrap();
        Self { database, pool, context, config, rabbit, channel, calls: Arc::default() }
    }

    /// A handler that writes its effect, and then fails for the first `failures` calls.
    fn subscription(&self, failures: usize) -> Subscription {
        let calls = self.calls.clone();
        let mut subscription = Subscription::new(QUEUE, &["kronos.test.*"], move |connection, event| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                sqlx::query("insert into effects values ($1)").bind(&event.id).execute(connection).await?;
                anyhow::ensure!(call >= failures, "the robot is upside down");
                Ok(())
            })
        });
        subscription.backoff = Duration::from_millis(20);
        subscription.max_attempts = 3;
        subscription
    }

    async fn publish(&self, event: &Event) {
        self.send(EXCHANGE, &event.type_, event.encode().as_bytes()).await;
    }

    async fn send(&self, exchange: &str, routing_key: &str, payload: &[u8]) {
        let properties = BasicProperties::default();
        let message = Message { exchange, routing_key, mandatory: true, payload, properties };
        self.rabbit.publish(&self.channel, message).await.unwrap();
    }

    async fn effects(&self) -> i64 {
        sqlx::query_scalar("select count(*) from effects").fetch_one(&self.pool).await.unwrap()
    }

    async fn dead_letter(&self) -> BasicGetMessage {
        let mut found = None;
        wait_until("the event is in the dead letters", async || {
            let queue = format!("{QUEUE}.dead");
            found = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

fn event(subject: &str) -> Event {
    Event::new("kronos.test.counted", subject, json!({}))
}

fn header(message: &BasicGetMessage, name: &str) -> AMQPValue {
    message.delivery.properties.headers().as_ref().unwrap().inner()[name].clone()
}

#[tokio::test]
async fn an_event_that_comes_twice_has_its_effect_once() {
    let fixture = Fixture::new().await;
    consume(fixture.rabbit.clone(), fixture.pool.clone(), fixture.subscription(0), &fixture.context).bound().await;
    let (twice, marker) = (event("1"), event("2"));
    for event in [&twice, &twice, &twice, &marker] {
        fixture.publish(event).await;
    }
    wait_until("both events are handled", async || fixture.effects().await == 2).await;
    assert_eq!(fixture.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_failed_event_is_tried_again_and_leaves_no_half_effect() {
    let fixture = Fixture::new().await;
    consume(fixture.rabbit.clone(), fixture.pool.clone(), fixture.subscription(2), &fixture.context).bound().await;
    fixture.publish(&event("1")).await;
    wait_until("the third attempt succeeds", async || fixture.calls.load(Ordering::SeqCst) == 3).await;
    wait_until("its effect is there", async || fixture.effects().await == 1).await;
}

#[tokio::test]
async fn after_the_last_attempt_the_event_is_kept_as_a_dead_letter_and_the_next_one_flows() {
    let fixture = Fixture::new().await;
    consume(fixture.rabbit.clone(), fixture.pool.clone(), fixture.subscription(3), &fixture.context).bound().await;
    let poison = event("1");
    fixture.publish(&poison).await;
    let dead = fixture.dead_letter().await;
    assert_eq!(Event::decode(&dead.delivery.data).unwrap(), poison);
    assert_eq!(header(&dead, "kronos-attempt"), AMQPValue::LongUInt(3));
    assert_eq!(header(&dead, "kronos-error"), AMQPValue::LongString("the robot is upside down".into()));
    assert_eq!(fixture.effects().await, 0);
    fixture.publish(&event("2")).await;
    wait_until("the next event is handled", async || fixture.effects().await == 1).await;
}

#[tokio::test]
async fn a_message_that_is_no_event_goes_to_the_dead_letters_at_once() {
    let fixture = Fixture::new().await;
    consume(fixture.rabbit.clone(), fixture.pool.clone(), fixture.subscription(0), &fixture.context).bound().await;
    fixture.send("", QUEUE, b"{\"specversion\":\"0.3\"}").await;
    assert_eq!(fixture.dead_letter().await.delivery.data, b"{\"specversion\":\"0.3\"}");
    assert_eq!(fixture.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_consumer_goes_on_after_its_connection_was_cut() {
    let fixture = Fixture::new().await;
    let mut config = fixture.config.clone();
    let (proxy, url) = Proxy::in_front_of(secrecy::ExposeSecret::expose_secret(&config.url)).await;
    config.url = url.into();
    let rabbit = rabbit::Connection::open(&config, &fixture.context).await.unwrap();
    consume(rabbit, fixture.pool.clone(), fixture.subscription(0), &fixture.context).bound().await;
    for number in 1..=3 {
        proxy.cut();
        fixture.publish(&event("1")).await;
        let patience = Duration::from_secs(10);
        wait_up_to(patience, "the event is handled", async || fixture.effects().await == number).await;
    }
}

#[tokio::test]
async fn a_database_that_is_away_costs_no_attempt() {
    let fixture = Fixture::new().await;
    let (proxy, url) = Proxy::in_front_of(&fixture.database.url("kronos_users")).await;
    let mut config = fixture.database.config("kronos_users");
    config.url = url.into();
    config.acquire_timeout_ms = 2000;
    let pool = kronos_common::postgres::open(&config, "test").unwrap();
    proxy.block();
    let mut subscription = fixture.subscription(0);
    subscription.max_attempts = 1;
    consume(fixture.rabbit.clone(), pool.clone(), subscription, &fixture.context).bound().await;
    fixture.publish(&event("1")).await;
    // Long enough for several tries in vain.
    wait_until("the pool has tried", async || pool.acquire().await.is_err()).await;
    proxy.restore();
    wait_up_to(Duration::from_secs(10), "the event is handled", async || fixture.effects().await == 1).await;
}
