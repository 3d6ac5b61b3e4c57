//! Robots publish, a subscriber takes, fails, and finds again: a Kafka stream and a RabbitMQ queue behind one API.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Journey, PATIENCE, eventually};
use crate::{
    api::{Api, text},
    sse::Events,
};

const EVENTS: usize = 1_000;
const CALLERS: usize = 32;
const ATTEMPTS: u64 = 3;
const BACKOFF_MS: u64 = 300;

impl Journey<'_> {
    pub(super) async fn messages(&mut self) -> anyhow::Result<()> {
        self.chapter("Messages: a stream, a queue, a failure and its way back");
        let hyperion = Api::client(self.target, "hyperion").await?;
        let hermes = Api::client(self.target, "hermes").await?;
        let (telemetry, firmware) = (self.name("telemetry"), self.name("firmware"));
        hyperion.post("/topics", &json!({ "name": telemetry, "kind": "stream" })).await?.expect(201)?;
        let queue = json!({
            "name": firmware, "kind": "queue", "maxAttempts": ATTEMPTS, "backoffMs": BACKOFF_MS, "leaseMs": 10_000,
        });
        hyperion.post("/topics", &queue).await?.expect(201)?;
        self.done("Hypérion makes a stream for events and a queue for firmware commands");

        let published = publish_events(&hyperion, &telemetry).await?;
        self.done(format!("Hypérion publishes {EVENTS} robot events, each answered after the broker's confirm"));
        let path = format!("/subscribe/{telemetry}?group=support&from=earliest");
        let mut events = Events::open(&hermes, &path).await?;
        let mut received = BTreeSet::new();
        let mut acknowledgements = JoinSet::new();
        while received.len() < published.len() {
            let event = events.next(PATIENCE).await.with_context(|| format!("after {} events", received.len()))?;
            if event.name == "message" {
                let id = text(&event.data, "messageId")?;
                let hermes = hermes.clone();
                let ack = format!("/ack/{id}");
                acknowledgements.spawn(async move { hermes.post(&ack, &json!({})).await?.expect(204) });
                received.insert(id);
            }
        }
        while let Some(acknowledged) = acknowledgements.join_next().await {
            acknowledged.context("acknowledge")??;
        }
        ensure!(received == published, "what was received is not what was published");
        drop(events);
        self.done(format!("Hermès receives all {EVENTS} over SSE and acknowledges them"));
        self.firmware(&hyperion, &hermes, &firmware).await?;
        for topic in [telemetry, firmware] {
            self.admin.delete(&format!("/topics/{topic}")).await?.expect(204)?;
        }
        Ok(())
    }

    /// A command that fails at every attempt, lies among the dead letters, and is replayed.
    async fn firmware(&mut self, hyperion: &Api, hermes: &Api, firmware: &str) -> anyhow::Result<()> {
        let command = json!({ "topic": firmware, "payload": { "robot": "R-42", "install": "2.1.0" }, "key": "R-42" });
        let id =
            hyperion.post("/publish", &command).await?.expect(201).and_then(|answer| text(&answer, "messageId"))?;
        let mut events = Events::open(hermes, &format!("/subscribe/{firmware}")).await?;
        let mut previous: Option<tokio::time::Instant> = None;
        for attempt in 1..=ATTEMPTS {
            let delivery = next_message(&mut events).await?;
            ensure!(delivery["messageId"] == id, "another message came: {delivery}");
            ensure!(delivery["attempt"] == attempt, "attempt {attempt} was expected: {delivery}");
            if let Some(failed) = previous {
                let waited = failed.elapsed();
                // The back-off is jittered, but never shorter than half of its base.
                ensure!(waited >= Duration::from_millis(BACKOFF_MS / 2), "it came back too soon, after {waited:?}");
                self.done(format!("attempt {attempt} comes after a back-off of {waited:?}"));
            }
            let failure = json!({ "reason": "the robot is charging" });
            previous = Some(tokio::time::Instant::now());
            hermes.post(&format!("/retry/{id}"), &failure).await?.expect(202)?;
            if attempt == 1 {
                self.done("Hermès receives the firmware command and fails it on purpose");
            }
        }
        let dead_letters = format!("/dead-letters?topic={firmware}");
        let (letter, _) = eventually("the dead letter", PATIENCE, || async {
            let list = self.admin.get(&dead_letters).await?.expect(200)?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            Ok(items.into_iter().find(|item| item["messageId"] == id))
        })
        .await?;
        self.done(format!("after {ATTEMPTS} attempts it lies among the dead letters: {}", letter["reason"]));
        self.admin.post(&format!("/retry/{id}"), &json!({})).await?.expect(202)?;
        let delivery = next_message(&mut events).await?;
        ensure!(delivery["messageId"] == id, "another message came: {delivery}");
        hermes.post(&format!("/ack/{id}"), &json!({})).await?.expect(204)?;
        self.done("it is replayed, received once more, and acknowledged");
        Ok(())
    }
}

/// Publishes with many callers at once; the ids that were answered.
async fn publish_events(hyperion: &Api, topic: &str) -> anyhow::Result<BTreeSet<String>> {
    stream::iter(0..EVENTS)
        .map(|number| async move {
            let robot = format!("R-{}", number % 50);
            let event = json!({ "topic": topic, "key": robot, "payload": { "robot": robot, "number": number } });
            let answer = hyperion.post("/publish", &event).await?;
            ensure!([201, 202].contains(&answer.status.as_u16()), "{}: {} {}", answer.call, answer.status, answer.json);
            answer.text("messageId")
        })
        .buffer_unordered(CALLERS)
        .try_collect()
        .await
}

async fn next_message(events: &mut Events) -> anyhow::Result<Value> {
    loop {
        let event = events.next(PATIENCE).await?;
        if event.name == "message" {
            return Ok(event.data);
        }
    }
}
