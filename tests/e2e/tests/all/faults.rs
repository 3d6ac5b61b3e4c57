//! A kill -9 of any one service while callers publish and log: what was answered with 2xx is there afterwards, once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kronos_e2e::{
    api::{Answer, Api, text},
    sse::Events,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::platform::{Platform, SERVICES};

const CALLERS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long callers go on before, while and after a service is away.
const BREATH: Duration = Duration::from_millis(300);

/// What was acknowledged: message ids of the stream and the queue, ids of log lines.
#[derive(Default)]
struct Acknowledged {
    stream: BTreeSet<String>,
    queue: BTreeSet<String>,
    lines: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_loses_no_acknowledged_message_and_no_acknowledged_line() {
    let mut platform = Platform::start().await;
    let admin = Api::administrator(&platform.target).await.unwrap();
    let (stream, queue) = (kronos_testkit::unique("faults-stream"), kronos_testkit::unique("faults-queue"));
    for (name, kind) in [(&stream, "stream"), (&queue, "queue")] {
        admin.post("/topics", &json!({ "name": name, "kind": kind })).await.unwrap().expect(201).unwrap();
    }
    let source = kronos_testkit::unique("faults");
    let end = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (admin, end) = (admin.clone(), end.clone());
        let names = [stream.clone(), queue.clone(), source.clone()];
        callers.spawn(async move { publish_until(&end, &admin, caller, names).await });
    }

    for service in SERVICES {
        sleep(BREATH).await;
        platform.kill(service).await;
        sleep(BREATH).await;
        platform.restart(service).await;
    }
    sleep(BREATH).await;
    end.store(true, Ordering::Relaxed);
    let mut acknowledged = Acknowledged::default();
    while let Some(of_one) = callers.join_next().await {
        let of_one = of_one.unwrap();
        acknowledged.stream.extend(of_one.stream);
        acknowledged.queue.extend(of_one.queue);
        acknowledged.lines.extend(of_one.lines);
    }
    let count = acknowledged.stream.len() + acknowledged.queue.len() + acknowledged.lines.len();
    assert!(count > 300, "only {count} were acknowledged: the test proves nothing");

    let from_the_start = format!("{stream}?group=after&from=earliest");
    for (topic, published) in [(&from_the_start, &acknowledged.stream), (&queue, &acknowledged.queue)] {
        let received = receive(&admin, topic, published).await;
        let lost: Vec<_> = published.difference(&received).collect();
        assert!(lost.is_empty(), "{topic}: {} of {} are lost, such as {:?}", lost.len(), published.len(), lost.first());
    }
    let kept = lines(&admin, &source, acknowledged.lines.len()).await;
    let lost: Vec<_> = acknowledged.lines.difference(&kept).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lines are lost, such as {:?}",
        lost.len(),
        acknowledged.lines.len(),
        lost.first()
    );
}

/// Publishes to both topics and logs, over and over; a failure is no acknowledgement, and is tried again as something new.
async fn publish_until(
    end: &AtomicBool,
    api: &Api,
    caller: usize,
    [stream, queue, source]: [String; 3],
) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let mut number = 0;
    let succeeded = |answer: anyhow::Result<Answer>| answer.ok().filter(|answer| answer.status.is_success());
    while !end.load(Ordering::Relaxed) {
        number += 1;
        let payload = json!({ "caller": caller, "number": number });
        for (topic, ids) in [(&stream, &mut acknowledged.stream), (&queue, &mut acknowledged.queue)] {
            let message = json!({ "topic": topic, "key": caller.to_string(), "payload": payload });
            if let Some(answer) = succeeded(api.post("/publish", &message).await) {
                ids.insert(answer.text("messageId").unwrap());
            }
        }
        let id = uuid::Uuid::now_v7().to_string();
        let line = json!({ "id": id, "service": source, "level": "info", "message": format!("{caller} {number}") });
        if let Some(answer) = succeeded(api.post("/logs", &line).await) {
            assert_eq!(answer.json["accepted"], 1, "{}", answer.json);
            acknowledged.lines.insert(id);
        }
        sleep(Duration::from_millis(5)).await;
    }
    acknowledged
}

/// Takes and acknowledges until all that is expected came, or nothing more comes.
async fn receive(api: &Api, topic: &str, expected: &BTreeSet<String>) -> BTreeSet<String> {
    let mut events = Events::open(api, &format!("/subscribe/{topic}")).await.unwrap();
    let mut received = BTreeSet::new();
    while !expected.is_subset(&received) {
        let Ok(event) = events.next(PATIENCE).await else { break };
        if event.name == "message" {
            let id = text(&event.data, "messageId").unwrap();
            assert_eq!(api.post(&format!("/ack/{id}"), &json!({})).await.unwrap().status, 204, "{id}");
            assert!(received.insert(id.clone()), "{id} came again though it was acknowledged");
        }
    }
    received
}

/// The ids of all lines of a source, from all pages.
async fn lines(api: &Api, source: &str, expected: usize) -> BTreeSet<String> {
    let begun = tokio::time::Instant::now();
    loop {
        let (mut found, mut cursor) = (BTreeSet::new(), String::new());
        loop {
            let page =
                api.get(&format!("/logs?service={source}&limit=200{cursor}")).await.unwrap().expect(200).unwrap();
            for item in page["items"].as_array().unwrap() {
                assert!(found.insert(text(item, "id").unwrap()), "{item} is there twice");
            }
            match &page["nextCursor"] {
                Value::String(next) => cursor = format!("&cursor={next}"),
                _ => break,
            }
        }
        if found.len() >= expected || begun.elapsed() > PATIENCE {
            return found;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
