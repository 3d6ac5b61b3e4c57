//! `Last-Event-ID`: a subscriber without group that was cut off goes on where it was, at any instance; or is told of a gap.

use serde_json::json;

use crate::harness::{Harness, Sent, Sse};

#[tokio::test]
async fn a_subscriber_that_is_cut_off_three_times_misses_nothing() {
    let messaging = Harness::start().await;
    let another = messaging.another().await;
    for kind in ["stream", "broadcast"] {
        messaging.topic(kind, kind, &json!({ "partitions": if kind == "stream" { 3 } else { 1 } })).await;
        let clients = [messaging.client(), messaging.client_at(&another)];
        let mut subscriber = Sse::open(&clients[0], kind, "").await;
        // Cut off before it saw anything, too.
        let mut seen = Vec::new();
        for round in 0..4 {
            let id = subscriber.last_id.clone();
            assert!(!id.is_empty(), "{kind}: even the first comment says where it is");
            drop(subscriber);
            for n in 0..5 {
                messaging.publish_with(kind, round * 10 + n, &json!({ "key": n.to_string() })).await;
            }
            subscriber = Sse::resume(&clients[round % 2], kind, "", &id).await;
            let came = 5 - usize::from(round < 3);
            for message in subscriber.messages(came).await {
                seen.push(message["payload"].as_u64().unwrap());
            }
        }
        seen.extend(
            subscriber
                .messages(20_usize.saturating_sub(seen.len()))
                .await
                .iter()
                .map(|m| m["payload"].as_u64().unwrap()),
        );
        seen.sort_unstable();
        let all: Vec<u64> = (0..4).flat_map(|round| (0..5).map(move |n| round * 10 + n)).collect();
        assert_eq!(seen, all, "{kind}");
    }
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_place_that_is_not_known_is_a_gap() {
    let messaging = Harness::start().await;
    for kind in ["stream", "broadcast"] {
        messaging.topic(kind, kind, &json!({})).await;
        messaging.topic(&format!("other-{kind}"), kind, &json!({})).await;
        let other = Sse::open(&messaging.client(), &format!("other-{kind}"), "").await.last_id;
        for id in ["nonsense", other.as_str()] {
            let mut subscriber = Sse::resume(&messaging.client(), kind, "", id).await;
            assert_eq!(subscriber.next().await, Some(Sent::Event("gap".to_owned())), "{kind}");
            messaging.publish(kind, id).await;
            assert_eq!(subscriber.message().await["payload"], id, "and then it goes on");
        }
    }
    messaging.stop().await;
}

#[tokio::test]
async fn what_a_stream_has_deleted_meanwhile_is_a_gap() {
    let messaging = Harness::start().await;
    messaging.topic("s", "stream", &json!({ "partitions": 1 })).await;
    let mut subscriber = Sse::open(&messaging.client(), "s", "").await;
    let begin = subscriber.last_id.clone();
    for n in 0..3 {
        messaging.publish("s", n).await;
    }
    subscriber.messages(3).await;
    drop(subscriber);
    // As the retention does, but at once.
    let name = {
        let id = messaging.client().get("/topics/s").await.expect(200).json();
        let id = id["topicId"].as_str().unwrap().replace('-', "");
        messaging.config.kafka.name(&format!("stream.s.{}", &id[id.len() - 8..]))
    };
    let admin = kronos_common::kafka::admin(&messaging.config.kafka).unwrap();
    let mut until = rdkafka::TopicPartitionList::new();
    until.add_partition_offset(&name, 0, rdkafka::Offset::Offset(2)).unwrap();
    admin.delete_records(&until, &rdkafka::admin::AdminOptions::new()).await.unwrap();
    let mut subscriber = Sse::resume(&messaging.client(), "s", "", &begin).await;
    assert_eq!(subscriber.next().await, Some(Sent::Event("gap".to_owned())));
    assert_eq!(subscriber.message().await["payload"], 2);
    messaging.stop().await;
}
