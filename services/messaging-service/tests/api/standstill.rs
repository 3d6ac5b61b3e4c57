//! Brokers that stand still, or have no disk left; subscribers that are cut off; instances that come and go. Everything that was
//! accepted comes, once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use futures::future::join_all;
use kronos_testkit::{OwnKafka, OwnRabbit, Proxy, TestClient, http, wait_up_to};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{ALL, Harness, PATIENCE, Sent, Sse, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_stand_still_delay_messages_and_lose_none() {
    stand_still(Duration::from_secs(5), 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn brokers_that_stand_still_for_a_minute_at_500_messages_a_second_lose_none() {
    stand_still(Duration::from_secs(60), 500).await;
}

async fn stand_still(time: Duration, per_second: u32) {
    let (rabbit, kafka) = tokio::join!(OwnRabbit::start(), OwnKafka::start());
    let messaging = Harness::start_with(|config| {
        config.rabbit = rabbit.config();
        config.kafka = kafka.config();
        config.rabbit.confirm_timeout_ms = 1000;
        config.kafka.timeout_ms = 1000;
    })
    .await;
    let topics = [("queue", "q", "max=500"), ("stream", "s", "max=500&group=g")];
    let mut takers = Vec::new();
    for (kind, topic, query) in topics {
        messaging.topic(topic, kind, &json!({})).await;
        let mut subscriber = Sse::open(&messaging.client(), topic, query).await;
        let before = messaging.publish(topic, "before").await;
        let message = subscriber.message().await;
        assert_eq!(message["messageId"], before);
        acknowledge(&messaging.client(), &message).await;
        takers.push(subscriber);
    }
    rabbit.freeze();
    kafka.freeze();
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut publishes = Vec::new();
    while begun.elapsed() < time {
        ticks.tick().await;
        let (client, n) = (messaging.client(), publishes.len());
        let topic = topics[n % 2].1;
        publishes.push(tokio::spawn(async move {
            let message = json!({ "topic": topic, "payload": n, "key": (n % 10).to_string() });
            let answer = client.post("/publish", &message).await;
            assert!([201, 202].contains(&answer.status), "{answer}");
            (topic, text(&answer.json(), "messageId").to_owned())
        }));
    }
    rabbit.thaw();
    kafka.thaw();
    let thawed = Instant::now();
    let mut accepted: HashMap<&str, HashSet<String>> = HashMap::new();
    for publish in publishes {
        let (topic, id) = publish.await.unwrap();
        accepted.entry(topic).or_default().insert(id);
    }
    let drains = topics.into_iter().zip(takers).map(async |((_, topic, _), mut subscriber)| {
        let wanted = &accepted[topic];
        assert!(wanted.len() > 50, "only {}: this proves nothing", wanted.len());
        let (mut received, mut acks) = (HashSet::new(), Vec::new());
        while !wanted.is_subset(&received) {
            let message = subscriber.message().await;
            assert!(received.insert(text(&message, "messageId").to_owned()), "it came twice: {message}");
            let client = messaging.client();
            acks.push(tokio::spawn(async move { acknowledge(&client, &message).await }));
        }
        for ack in acks {
            ack.await.unwrap();
        }
    });
    join_all(drains).await;
    let drained = thawed.elapsed();
    assert!(drained < time.max(PATIENCE) + PATIENCE, "{drained:?} to drain what came in {time:?}");
    messaging.stop().await;
}

async fn acknowledge(client: &TestClient, message: &Value) {
    client.post(&format!("/ack/{}", text(message, "deliveryId")), &json!(null)).await.expect(204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rabbitmq_without_disk_delays_messages_and_loses_none() {
    let rabbit = OwnRabbit::start().await;
    let messaging = Harness::start_with(|config| {
        config.rabbit = rabbit.config();
        config.rabbit.confirm_timeout_ms = 1000;
    })
    .await;
    messaging.topic("q", "queue", &json!({})).await;
    let client = messaging.client();
    let publish = async |n: i64| client.post("/publish", &json!({ "topic": "q", "payload": n, "key": "k" })).await;
    let mut accepted = vec![text(&publish(0).await.expect(201).json(), "messageId").to_owned()];
    // More than any disk has.
    rabbit.set_disk_limit("1000000GB");
    let mut n = 1;
    wait_up_to(PATIENCE, "the alarm is felt", async || {
        let answer = publish(n).await;
        n += 1;
        let accepts = [201, 202].contains(&answer.status);
        assert!(accepts || (answer.status == 503 && answer.header("retry-after").is_some()), "{answer}");
        if accepts {
            accepted.push(text(&answer.json(), "messageId").to_owned());
        }
        answer.status != 201
    })
    .await;
    // Nobody waits for the broker any more.
    wait_up_to(PATIENCE, "publishes go to the outbox at once", async || {
        let begun = Instant::now();
        let answer = publish(n).await.expect(202);
        n += 1;
        accepted.push(text(&answer.json(), "messageId").to_owned());
        begun.elapsed() < Duration::from_millis(900)
    })
    .await;
    for n in n..n + 50 {
        accepted.push(text(&publish(n).await.expect(202).json(), "messageId").to_owned());
    }
    let operations = http(messaging.running.operations);
    wait_up_to(PATIENCE, "it says what is wrong", async || {
        operations.get("/metrics").await.text().contains("kronos_dependency_up{name=\"rabbitmq\"} 0")
    })
    .await;
    rabbit.set_disk_limit("50MB");
    let mut subscriber = Sse::open(&client, "q", "max=500").await;
    let mut received = Vec::new();
    while received.len() < accepted.len() {
        let message = subscriber.message().await;
        received.push(text(&message, "messageId").to_owned());
        acknowledge(&client, &message).await;
    }
    assert_eq!(received, accepted, "each once, in their order");
    messaging.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subscriber_is_cut_off_three_times_and_misses_nothing() {
    const SUBSCRIBERS: usize = 6;
    const MESSAGES: usize = 120;
    let messaging = Harness::start().await;
    let proxy = Proxy::start(messaging.running.api.to_string()).await;
    let client = http(proxy.address()).bearer(messaging.issuer.token("tester", &ALL));
    for (kind, topic) in [("stream", "s"), ("broadcast", "b"), ("queue", "q")] {
        messaging.topic(topic, kind, &json!({ "leaseMs": 2000, "maxAttempts": 100 })).await;
    }
    let mut followers = Vec::new();
    for n in 0..SUBSCRIBERS * 2 {
        let (client, topic) = (client.clone(), if n % 2 == 0 { "s" } else { "b" });
        let mut subscriber = Sse::open(&client, topic, "").await;
        followers.push(tokio::spawn(async move {
            let (mut seen, mut cuts) = (Vec::new(), 0);
            while seen.len() < MESSAGES {
                match subscriber.next().await {
                    Some(Sent::Message(message)) => seen.push(message["payload"].as_u64().unwrap()),
                    Some(Sent::Comment(_)) => {}
                    Some(Sent::Event(name)) => panic!("{topic}: {name}"),
                    None => {
                        cuts += 1;
                        let id = subscriber.last_id.clone();
                        subscriber = Sse::resume(&client, topic, "", &id).await;
                    }
                }
            }
            (topic, seen, cuts)
        }));
    }
    let worker = {
        // It is cut off from its messages, not from where it acknowledges: the answer to that would be lost as well.
        let (client, direct, mut done) = (client.clone(), messaging.client(), HashSet::new());
        let mut subscriber = Sse::open(&client, "q", "").await;
        tokio::spawn(async move {
            while done.len() < MESSAGES {
                match subscriber.next().await {
                    Some(Sent::Message(message)) => {
                        let path = format!("/ack/{}", text(&message, "deliveryId"));
                        if direct.post(&path, &json!(null)).await.status == 204 {
                            assert!(done.insert(message["payload"].as_u64().unwrap()), "acknowledged, and came again");
                        }
                    }
                    Some(_) => {}
                    None => subscriber = Sse::open(&client, "q", "").await,
                }
            }
            done
        })
    };
    for n in 0..MESSAGES {
        for topic in ["s", "b", "q"] {
            messaging.publish_with(topic, n, &json!({ "key": (n % 5).to_string() })).await;
        }
        if n % 30 == 29 && n + 1 < MESSAGES {
            proxy.cut();
        }
    }
    for follower in followers {
        let (topic, mut seen, cuts) = follower.await.unwrap();
        assert!(cuts >= 3, "{topic}: cut off {cuts} times");
        seen.sort_unstable();
        assert_eq!(seen, (0..MESSAGES as u64).collect::<Vec<_>>(), "{topic}");
    }
    assert_eq!(worker.await.unwrap().len(), MESSAGES);
    messaging.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_come_and_go_all_the_time_lose_double_and_reorder_nothing() {
    const ROUNDS: usize = 6;
    let messaging = Harness::start().await;
    let topics = [("stream", "s"), ("queue", "q")];
    for (kind, topic) in topics {
        messaging.topic(topic, kind, &json!({ "ordering": "strict", "leaseMs": 3000, "maxAttempts": 100 })).await;
    }
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let subscribe = async |client: TestClient, topic: &'static str| {
        let mut subscriber = Sse::open(&client, topic, "group=g&max=4").await;
        let (told, messaging) = (told.clone(), messaging.client());
        tokio::spawn(async move {
            // Its instance ends, and with it the stream.
            while let Some(sent) = subscriber.next().await {
                if let Sent::Message(message) = sent {
                    let came = Instant::now();
                    let path = format!("/ack/{}", text(&message, "deliveryId"));
                    // At the instance that stays: refused if the message was handed back meanwhile.
                    if messaging.post(&path, &json!(null)).await.status == 204 {
                        told.send((topic, came, message)).unwrap();
                    }
                }
            }
        });
    };
    let mut published: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut another = messaging.another().await;
    for round in 0..ROUNDS {
        for (_, topic) in topics {
            subscribe(messaging.client_at(&another), topic).await;
        }
        let next = messaging.another().await;
        for n in 0..20 {
            for (_, topic) in topics {
                let key = json!({ "key": (n % 5).to_string() });
                published.entry(topic).or_default().push(messaging.publish_with(topic, round * 20 + n, &key).await);
            }
        }
        std::mem::replace(&mut another, next).stop().await;
    }
    for (_, topic) in topics {
        subscribe(messaging.client_at(&another), topic).await;
    }
    let mut acknowledged: BTreeMap<&str, Vec<(Instant, Value)>> = BTreeMap::new();
    while acknowledged.values().map(Vec::len).sum::<usize>() < ROUNDS * 40 {
        let next = tokio::time::timeout(PATIENCE, heard.recv()).await.expect("all of them come");
        let (topic, came, message) = next.unwrap();
        acknowledged.entry(topic).or_default().push((came, message));
    }
    acknowledged.values_mut().for_each(|messages| messages.sort_by_key(|(came, _)| *came));
    for (topic, mut ids) in published {
        let mut came: Vec<String> =
            acknowledged[topic].iter().map(|(_, message)| text(message, "messageId").to_owned()).collect();
        came.sort_unstable();
        ids.sort_unstable();
        assert_eq!(came, ids, "{topic}: each once");
        for key in (0..5).map(|key: u32| key.to_string()) {
            let numbers: Vec<u64> = acknowledged[topic]
                .iter()
                .filter(|(_, message)| message["key"] == key.as_str())
                .map(|(_, message)| message["payload"].as_u64().unwrap())
                .collect();
            assert!(numbers.is_sorted(), "{topic}, key {key}: {numbers:?}");
        }
    }
    another.stop().await;
    messaging.stop().await;
}
