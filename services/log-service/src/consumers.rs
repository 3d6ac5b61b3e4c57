//! What arrives by the brokers: log lines from the Kafka topics `logs` and `requests`, domain events from RabbitMQ. Either broker may be
//! away; the rest of the service does not notice.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use futures::FutureExt as _;
use kronos_common::{
    config,
    events::{self, Subscription},
    kafka, rabbit,
    service::{Context, Criticality},
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::{CommitMode, Consumer as _, StreamConsumer},
    message::BorrowedMessage,
    types::RDKafkaErrorCode,
};
use tokio::{net::TcpStream, time};

use crate::{
    event_line,
    jobs::writer::{Ingest, Shared},
    line::{Line, NewLine},
    store::{index_state, lines},
};

/// Lines of whoever writes some, and the gateway's audit trail, in the same form.
const TOPICS: [&str; 2] = ["logs", "requests"];
const PARTITIONS: i32 = 6;
/// Records taken at once.
const BATCH: usize = 1000;
const LINGER: Duration = Duration::from_millis(20);
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
const EXCERPT_CHARS: usize = 500;

/// Keeps every domain event as a log line.
pub(crate) fn follow_events(rabbit: rabbit::Connection, shared: &Arc<Shared>, context: &Context) {
    let (pool, shared) = (shared.lines.pool.clone(), shared.clone());
    let subscription = Subscription::new("log-service.events", &["kronos.#"], move |connection, event| {
        let shared = shared.clone();
        Box::pin(async move {
            let line = match event_line::line_of(event).accept(Utc::now()) {
                Ok(line) => line,
                Err(refusals) => anyhow::bail!("the event is no log line: {refusals:?}"),
            };
            shared.lines.days.ensure(&shared.lines.pool, [line.received_at.date_naive()]).await?;
            lines::write_in(connection, std::slice::from_ref(&line), false).await?;
            Ok(())
        })
    });
    events::consume(rabbit, pool, subscription, context);
}

/// Shows Kafka in `/ready`, by whether its first broker can be reached.
pub(crate) fn show_kafka(config: &config::Kafka, context: &Context) {
    let broker = config.brokers.split(',').next().unwrap_or_default().trim().to_owned();
    context.depends_on("kafka", Criticality::Degraded, move || {
        let broker = broker.clone();
        async move { Ok(TcpStream::connect(broker).await.map(drop)?) }.boxed()
    });
}

/// Starts to take lines from Kafka: makes the topics if they are not there, then reads them as one of a group.
pub(crate) fn follow_kafka(config: config::Kafka, ingest: Ingest, shared: Arc<Shared>, context: &Context) {
    let shutdown = context.shutdown.clone();
    context.spawn("kafka-logs", async move {
        let work = async {
            let mut pause = PAUSE.0;
            while let Err(error) = make_topics(&config).await {
                tracing::debug!(error = format!("{error:#}"), "Kafka is away, lines come over HTTP only");
                time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            loop {
                if let Err(error) = read_topic(&config, &ingest, &shared).await {
                    tracing::warn!(error = format!("{error:#}"), "reading log lines from Kafka starts again");
                }
                time::sleep(PAUSE.1).await;
            }
        };
        tokio::select! { () = work => {}, () = shutdown.cancelled() => {} }
    });
}

async fn make_topics(config: &config::Kafka) -> anyhow::Result<()> {
    let names = TOPICS.map(|topic| config.name(topic));
    let topics = names.each_ref().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(-1)));
    let options = AdminOptions::new().request_timeout(Some(config.timeout())).operation_timeout(Some(config.timeout()));
    let made = kafka::admin(config)?.create_topics(&topics, &options).await?;
    for result in made {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => anyhow::bail!("topic {name} can't be made: {code}"),
        }
    }
    Ok(())
}

async fn read_topic(config: &config::Kafka, ingest: &Ingest, shared: &Shared) -> anyhow::Result<()> {
    let consumer: StreamConsumer =
        kafka::consumer(config, "log-service", &[("topic.metadata.refresh.interval.ms", "10000")])?;
    let names = TOPICS.map(|topic| config.name(topic));
    consumer.subscribe(&names.each_ref().map(String::as_str))?;
    let mut failing = false;
    loop {
        let first = match consumer.recv().await {
            Ok(message) => message,
            Err(error) => {
                // The client reconnects by itself.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "Kafka is away, lines come over HTTP only");
                }
                time::sleep(PAUSE.0).await;
                continue;
            }
        };
        failing = false;
        let mut batch = Batch::default();
        batch.push(&first);
        let deadline = time::Instant::now() + LINGER;
        while batch.records < BATCH {
            match time::timeout_at(deadline, consumer.recv()).await {
                Ok(Ok(message)) => batch.push(&message),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        batch.keep(ingest, shared).await;
        // Lines are durable, so the records may go. A commit that fails brings them again, known by their ids.
        if let Err(error) = consumer.commit(&batch.offsets, CommitMode::Async) {
            tracing::warn!(%error, "offsets of kept log lines were not committed");
        }
    }
}

/// Records on their way to the store.
#[derive(Default)]
struct Batch {
    records: usize,
    lines: Vec<Line>,
    /// Place, reason and beginning of records that are no log line.
    bad: Vec<(String, String, String)>,
    offsets: TopicPartitionList,
}

impl Batch {
    fn push(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let next = Offset::Offset(offset + 1);
        if self.offsets.set_partition_offset(topic, partition, next).is_err() {
            let _ = self.offsets.add_partition_offset(topic, partition, next);
        }
        self.records += 1;
        let payload = message.payload().unwrap_or_default();
        let place = format!("{topic}/{partition}/{offset}");
        match read(payload, &place) {
            Ok(lines) => self.lines.extend(lines),
            Err(reason) => {
                let excerpt = String::from_utf8_lossy(payload).chars().take(EXCERPT_CHARS).collect::<String>();
                self.bad.push((place, reason, crate::redact::message(&excerpt)));
            }
        }
    }

    /// Returns when everything is durable, however long it takes.
    async fn keep(&mut self, ingest: &Ingest, shared: &Shared) {
        let lines = std::mem::take(&mut self.lines);
        while let Err(error) = ingest.write_patiently("kafka", lines.clone()).await {
            tracing::warn!(%error, "log lines from Kafka wait");
            time::sleep(PAUSE.0).await;
        }
        ingest.count_rejected("kafka", self.bad.len());
        for (place, reason, excerpt) in std::mem::take(&mut self.bad) {
            while let Err(error) = quarantine(shared, &place, &reason, &excerpt).await {
                tracing::warn!(%error, "a bad record from Kafka waits for PostgreSQL");
                time::sleep(PAUSE.0).await;
            }
        }
    }
}

async fn quarantine(shared: &Shared, place: &str, reason: &str, excerpt: &str) -> sqlx::Result<()> {
    let mut connection = shared.lines.pool.acquire().await?;
    index_state::quarantine(&mut connection, "kafka", place, reason, Some(excerpt)).await
}

/// One line or a list of lines; a line without an id is named after its place, so that it is kept once.
fn read(payload: &[u8], place: &str) -> Result<Vec<Line>, String> {
    let list = payload.trim_ascii_start().starts_with(b"[");
    let new: Vec<NewLine> = if list {
        serde_json::from_slice(payload).map_err(|error| error.to_string())?
    } else {
        vec![serde_json::from_slice(payload).map_err(|error| error.to_string())?]
    };
    let now = Utc::now();
    let named = new.into_iter().enumerate().map(|(index, mut line)| {
        if line.id.is_none() {
            // Topic names may be long; the end is what differs.
            let place: String = place.chars().rev().take(100).collect::<Vec<_>>().into_iter().rev().collect();
            line.id = Some(if list { format!("{place}/{index}") } else { place });
        }
        line.accept(now).map_err(|refusals| {
            let reasons: Vec<String> = refusals.iter().map(|it| format!("{}: {}", it.field, it.detail)).collect();
            reasons.join(", ")
        })
    });
    named.collect()
}
