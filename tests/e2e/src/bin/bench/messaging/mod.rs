//! What messages over HTTP cost, against the brokers' own clients in the same run: publishing, 64 in flight and in batches of
//! 100 from 8 callers; then what delivering costs (`delivery`). All of 1 KiB.

mod delivery;
mod raw;

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use futures::future::try_join_all;
use kronos_e2e::api::Api;
use serde_json::json;

use self::raw::{Kafka, Rabbit};
use crate::{
    Platform,
    load::{Call, Connection},
};

const SIZE: usize = 1024;
const IN_FLIGHT: usize = 64;
const CALLERS: usize = 8;
const BATCH: usize = 100;
/// Of each measurement; they alternate, and the better of two rounds counts on both sides.
const TIME: Duration = Duration::from_secs(4);
const ROUNDS: usize = 2;

/// Measures it.
pub(crate) async fn messaging(platform: &Platform) -> anyhow::Result<()> {
    let api = Api::client(&platform.target, "hyperion").await?;
    let rabbit = Rabbit::open(platform).await?;
    let kafka = Kafka::open(platform).await?;
    println!("Messages of 1 KiB published and confirmed each second, {TIME:?} each:");
    for (broker, kind, wanted) in [("RabbitMQ", "queue", [0.5, 0.75]), ("Kafka", "stream", [0.3, 0.5])] {
        let topic = Topic::make(platform, &api, &format!("bench-{kind}"), &json!({ "kind": kind })).await?;
        for (what, batch, wanted) in [("64 in flight", false, wanted[0]), ("100 × 8 callers", true, wanted[1])] {
            let (callers, messages) = if batch { (CALLERS, BATCH) } else { (IN_FLIGHT, 1) };
            let (mut raw, mut over_http) = (0.0_f64, 0.0_f64);
            for _ in 0..ROUNDS {
                raw = raw.max(match kind {
                    "queue" => rate(callers, messages, || rabbit.publish(messages)).await?,
                    _ => rate(callers, messages, || kafka.publish(messages)).await?,
                });
                over_http = over_http.max(topic.rate(batch).await?);
            }
            println!(
                "  {broker:<9} {what:<16} raw {raw:>8.0}   HTTP {over_http:>8.0}   {:.2} × (at least {wanted} wanted)",
                over_http / raw
            );
        }
        topic.delete(&api).await?;
    }
    delivery::latency(platform, &api, &rabbit, &kafka).await?;
    delivery::wrong_instance(platform, &api).await?;
    delivery::many(platform, &api).await?;
    delivery::poison(platform, &api).await?;
    rabbit.close().await?;
    kafka.close().await
}

/// `callers` each publish again as soon as they have their confirms.
async fn rate<F>(callers: usize, messages: usize, publish: impl Fn() -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let (begun, publish) = (Instant::now(), &publish);
    let counts = try_join_all((0..callers).map(|_| async move {
        let mut count = 0;
        while begun.elapsed() < TIME {
            publish().await?;
            count += messages;
        }
        anyhow::Ok(count)
    }))
    .await?;
    Ok(counts.iter().sum::<usize>() as f64 / begun.elapsed().as_secs_f64())
}

/// A topic of the service, over HTTP and without the gateway.
struct Topic {
    base: String,
    name: String,
    authorization: String,
}

impl Topic {
    /// A new one, in place of what an earlier run has left.
    async fn make(platform: &Platform, api: &Api, name: &str, settings: &serde_json::Value) -> anyhow::Result<Self> {
        api.delete(&format!("/topics/{name}")).await?;
        let mut topic = settings.clone();
        topic["name"] = name.into();
        api.post("/topics", &topic).await?.expect(201)?;
        let authorization = format!("Bearer {}", api.token());
        Ok(Self { base: platform.service("messaging-service")?.url(), name: name.to_owned(), authorization })
    }

    async fn delete(&self, api: &Api) -> anyhow::Result<()> {
        api.delete(&format!("/topics/{}", self.name)).await?.expect(204)?;
        Ok(())
    }

    fn publish(&self, payload: &serde_json::Value) -> Call {
        Call::json("/publish", &json!({ "topic": self.name, "payload": payload })).authorized(&self.authorization)
    }

    async fn rate(&self, batch: bool) -> anyhow::Result<f64> {
        let message = json!({ "topic": self.name, "payload": "x".repeat(SIZE - 2) });
        let (call, callers, messages) = if batch {
            (Call::json("/publish/batch", &json!({ "messages": vec![message; BATCH] })), CALLERS, BATCH)
        } else {
            (Call::json("/publish", &message), IN_FLIGHT, 1)
        };
        let call = call.authorized(&self.authorization);
        let mut connections = Connection::several(&self.base, callers).await?;
        let outcome = crate::load::run(&mut connections, TIME, async |connection, _| {
            let (status, answer) = connection.send(&call).await?;
            ensure!(!holds(&answer, b"\"refused\"") && !holds(&answer, b"\"accepted\""), "not all were confirmed");
            Ok(status)
        })
        .await?;
        ensure!(outcome.others.is_empty(), "other answers: {:?}", outcome.others);
        Ok(outcome.rate() * messages as f64)
    }
}

fn holds(text: &Bytes, part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
