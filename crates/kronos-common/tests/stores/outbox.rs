//! The outbox: nothing that was committed is lost, nothing that was rolled back is told.

use std::collections::HashSet;

use futures::StreamExt as _;
use kronos_common::{
    config,
    event::{EXCHANGE, Event},
    outbox::{self, Relay},
    rabbit,
    service::Context,
};
use kronos_testkit::{Proxy, TestDatabase, test_rabbit, wait_until, wait_up_to};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;
use sqlx::PgPool;
use std::time::Duration;

const QUEUE: &str = "all";

/// A queue that gets every event, on a connection of its own.
async fn listen(config: &config::Rabbit) -> (Connection, Channel) {
    let url = secrecy::ExposeSecret::expose_secret(&config.url);
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
    let options = QueueBindOptions::default();
    channel.queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), options, FieldTable::default()).await.unwrap();
    (connection, channel)
}

async fn insert(pool: &PgPool, number: usize) -> Event {
    let event = Event::new("kronos.test.counted", number.to_string(), json!({"number": number}));
    let mut transaction = pool.begin().await.unwrap();
    outbox::insert(&mut transaction, &event).await.unwrap();
    transaction.commit().await.unwrap();
    event
}

async fn waiting(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from outbox").fetch_one(pool).await.unwrap()
}

async fn receive(channel: &Channel, count: usize) -> Vec<Event> {
    let options = BasicConsumeOptions::default();
    let mut deliveries = channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await.unwrap();
    let mut events: Vec<Event> = Vec::new();
    let mut ids = HashSet::new();
    while ids.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(10), deliveries.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("{} of {count} events came", ids.len())).unwrap().unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        let event = Event::decode(&delivery.data).unwrap();
        assert_eq!(delivery.routing_key.as_str(), event.type_);
        ids.insert(event.id.clone());
        events.push(event);
    }
    events
}

#[tokio::test]
async fn a_committed_event_reaches_the_broker_and_leaves_the_table() {
    let (database, config) = (TestDatabase::create().await, test_rabbit().await);
    let (pool, context) = (database.pool("kronos_users").await, Context::detached("test"));
    let rabbit = rabbit::Connection::open(&config, &context).await.unwrap();
    rabbit.connected().await;
    let (_connection, channel) = listen(&config).await;
    let relay = Relay::start(pool.clone(), rabbit, &context);
    let event = insert(&pool, 1).await;
    relay.wake();
    assert_eq!(receive(&channel, 1).await, [event]);
    wait_until("the outbox is empty", async || waiting(&pool).await == 0).await;
}

#[tokio::test]
async fn a_change_that_was_rolled_back_tells_nothing() {
    let (database, config) = (TestDatabase::create().await, test_rabbit().await);
    let (pool, context) = (database.pool("kronos_users").await, Context::detached("test"));
    let rabbit = rabbit::Connection::open(&config, &context).await.unwrap();
    rabbit.connected().await;
    let (_connection, channel) = listen(&config).await;
    let mut transaction = pool.begin().await.unwrap();
    outbox::insert(&mut transaction, &Event::new("kronos.test.undone", "1", json!({}))).await.unwrap();
    transaction.rollback().await.unwrap();
    Relay::start(pool.clone(), rabbit, &context);
    let told = insert(&pool, 2).await;
    assert_eq!(receive(&channel, 1).await, [told], "the first thing that is told was committed");
}

#[tokio::test]
async fn events_wait_for_a_broker_that_is_away() {
    let (database, mut config) = (TestDatabase::create().await, test_rabbit().await);
    let (pool, context) = (database.pool("kronos_users").await, Context::detached("test"));
    let direct = config.clone();
    let (proxy, url) = Proxy::in_front_of(secrecy::ExposeSecret::expose_secret(&config.url)).await;
    config.url = url.into();
    let rabbit = rabbit::Connection::open(&config, &context).await.unwrap();
    rabbit.connected().await;
    let (_connection, channel) = listen(&direct).await;
    proxy.block();
    let relay = Relay::start(pool.clone(), rabbit.clone(), &context);
    for number in 0..5 {
        insert(&pool, number).await;
        relay.wake();
    }
    wait_until("the supervisor notices", async || !rabbit.is_connected()).await;
    assert_eq!(waiting(&pool).await, 5);
    proxy.restore();
    assert_eq!(receive(&channel, 5).await.len(), 5);
    wait_up_to(Duration::from_secs(10), "the outbox is empty", async || waiting(&pool).await == 0).await;
}

#[tokio::test]
async fn two_relays_and_cut_connections_lose_nothing() {
    const EVENTS: usize = 1_000;
    let (database, mut config) = (TestDatabase::create().await, test_rabbit().await);
    let pool = database.pool("kronos_users").await;
    let direct = config.clone();
    let (proxy, url) = Proxy::in_front_of(secrecy::ExposeSecret::expose_secret(&config.url)).await;
    config.url = url.into();
    let contexts = [Context::detached("first"), Context::detached("second")];
    let mut relays = Vec::new();
    for context in &contexts {
        let rabbit = rabbit::Connection::open(&config, context).await.unwrap();
        rabbit.connected().await;
        relays.push(Relay::start(pool.clone(), rabbit, context));
    }
    let (_connection, channel) = listen(&direct).await;
    for number in 0..EVENTS {
        insert(&pool, number).await;
        relays[number % 2].wake();
        if number % 200 == 100 {
            proxy.cut();
        }
    }
    let numbers: HashSet<u64> =
        receive(&channel, EVENTS).await.iter().map(|event| event.data["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), EVENTS);
    wait_up_to(Duration::from_secs(10), "the outbox is empty", async || waiting(&pool).await == 0).await;
}

#[tokio::test]
async fn an_event_too_large_for_the_broker_is_refused_where_it_is_written() {
    let database = TestDatabase::create().await;
    let mut connection = database.pool("kronos_users").await.acquire().await.unwrap();
    let event = Event::new("kronos.test.large", "1", json!("x".repeat(2 << 20)));
    assert!(outbox::insert(&mut connection, &event).await.is_err());
}
