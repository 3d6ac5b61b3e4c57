//! What delivering costs: the time from publish to subscriber beside the brokers' own clients, acknowledgements at another
//! instance, many subscribers of which some read nothing, and messages that fail again and again among good ones.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::{join_all, try_join_all};
use kronos_e2e::{api::Api, sse::Events};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{
    SIZE, Topic,
    raw::{Kafka, Rabbit},
};
use crate::{Platform, Quantiles, load::Connection};

/// Messages of a measurement, and their pace.
const COUNT: usize = 2000;
const EVERY: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(20);
const SUBSCRIBERS: usize = 500;
const STALLED: usize = 50;

/// From the call to the event, beside the brokers' own clients.
pub(super) async fn latency(platform: &Platform, api: &Api, rabbit: &Rabbit, kafka: &Kafka) -> anyhow::Result<()> {
    println!("From publish to subscriber at 500 a second:");
    for kind in ["queue", "stream"] {
        let topic = Topic::make(platform, api, &format!("bench-latency-{kind}"), &json!({ "kind": kind })).await?;
        let raw = match kind {
            "queue" => rabbit.latency(COUNT, EVERY).await?,
            _ => kafka.latency(COUNT, EVERY).await?,
        };
        let (raw, http) = (Quantiles::of(raw), Quantiles::of(flow(api, &topic, COUNT, |_| false).await?));
        println!(
            "  {kind:<9} raw {raw}   HTTP {http}   added p50 {:?} (at most 1 ms wanted), p99 {:?} (5 ms)",
            http.p50.saturating_sub(raw.p50),
            http.p99.saturating_sub(raw.p99)
        );
        topic.delete(api).await?;
    }
    Ok(())
}

/// Publishes at a steady pace to a group of one, which acknowledges; gives the time of each good one. What `fails` names is
/// tried again instead.
async fn flow(api: &Api, topic: &Topic, count: usize, fails: impl Fn(usize) -> bool) -> anyhow::Result<Vec<Duration>> {
    let direct = api.at(topic.base.clone());
    let mut events = Events::open(&direct, &format!("/subscribe/{}?max=500&group=bench", topic.name)).await?;
    // The first one only finds out whether somebody reads the broker yet, as with its own client.
    Connection::open(&topic.base).await?.send(&topic.publish(&json!("first"))).await?;
    let first = events.next(PATIENCE).await?;
    direct.post(&format!("/ack/{}", first.data["deliveryId"].as_str().context("deliveryId")?), &json!({})).await?;
    let begun = Instant::now();
    let publishing = async {
        let mut connections = Connection::several(&topic.base, 8).await?;
        let mut ticks = tokio::time::interval(EVERY);
        for n in 0..count {
            ticks.tick().await;
            let sent = u64::try_from(begun.elapsed().as_micros())?;
            let call = topic.publish(&json!({ "n": n, "sent": sent, "fill": "x".repeat(SIZE - 48) }));
            let (status, _) = connections[n % 8].send(&call).await?;
            ensure!(status.is_success(), "publish: {status}");
        }
        anyhow::Ok(())
    };
    let good = (0..count).filter(|n| !fails(*n)).count();
    let receiving = async {
        let (mut times, mut acks) = (Vec::with_capacity(good), Vec::new());
        while times.len() < good {
            let event = events.next(PATIENCE).await?;
            let number = |name: &str| event.data["payload"][name].as_u64().context("a number");
            let verb = if fails(usize::try_from(number("n")?)?) { "retry" } else { "ack" };
            if verb == "ack" {
                times.push(begun.elapsed().saturating_sub(Duration::from_micros(number("sent")?)));
            }
            let path = format!("/{verb}/{}", event.data["deliveryId"].as_str().context("deliveryId")?);
            let acking = direct.clone();
            acks.push(tokio::spawn(async move { acking.post(&path, &json!({})).await.map(drop) }));
        }
        for ack in join_all(acks).await {
            ack??;
        }
        anyhow::Ok(times)
    };
    let ((), times) = tokio::try_join!(publishing, receiving)?;
    Ok(times)
}

/// Acknowledgements where the message was delivered, and elsewhere.
pub(super) async fn wrong_instance(platform: &Platform, api: &Api) -> anyhow::Result<()> {
    let Some(other) = platform.service("messaging-service")?.more.first() else {
        println!("Acknowledging at another instance: not measured; `cargo xtask scale messaging-service=2` makes one");
        return Ok(());
    };
    let topic = Topic::make(platform, api, "bench-acks", &json!({ "kind": "queue" })).await?;
    let mut events = Events::open(&api.at(topic.base.clone()), "/subscribe/bench-acks?max=500").await?;
    let mut publisher = Connection::open(&topic.base).await?;
    let mut at = [Connection::open(&topic.base).await?, Connection::open(&other.url()).await?];
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..1000 {
        publisher.send(&topic.publish(&json!(n))).await?;
        let event = events.next(PATIENCE).await?;
        let path = format!("/ack/{}", event.data["deliveryId"].as_str().context("deliveryId")?);
        let call = crate::load::Call::json(&path, &Value::Null).authorized(&topic.authorization);
        let begun = Instant::now();
        let (status, _) = at[n % 2].send(&call).await?;
        ensure!(status == 204, "ack: {status}");
        times[n % 2].push(begun.elapsed());
    }
    let [local, elsewhere] = times.map(Quantiles::of);
    let ratio = elsewhere.p99.as_secs_f64() / local.p99.as_secs_f64();
    println!("Acknowledging: here {local}   elsewhere {elsewhere}   p99 {ratio:.2} × (at most 2 wanted)");
    topic.delete(api).await
}

/// Many subscribers of a broadcast, of which some read nothing.
pub(super) async fn many(platform: &Platform, api: &Api) -> anyhow::Result<()> {
    const MESSAGES: usize = 200;
    let topic = Topic::make(platform, api, "bench-many", &json!({ "kind": "broadcast" })).await?;
    let (direct, path) = (api.at(topic.base.clone()), format!("/subscribe/{}", topic.name));
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let host = topic.base.trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(&host).await?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\n\r\n", topic.authorization);
        stream.write_all(head.as_bytes()).await?;
        stalled.push(stream);
    }
    let subscribers = try_join_all((0..SUBSCRIBERS).map(|_| Events::open(&direct, &path))).await?;
    let service = platform.service("messaging-service")?;
    let before = service.resident_kib()?;
    let begun = Instant::now();
    let receiving = join_all(subscribers.into_iter().map(async |mut events| {
        let mut times = Vec::with_capacity(MESSAGES);
        while times.len() < MESSAGES {
            let event = events.next(PATIENCE).await?;
            if let Some(sent) = event.data["payload"]["sent"].as_u64() {
                times.push(begun.elapsed().saturating_sub(Duration::from_micros(sent)));
            }
        }
        anyhow::Ok(times)
    }));
    let publishing = async {
        let mut publisher = Connection::open(&topic.base).await?;
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..MESSAGES {
            ticks.tick().await;
            let sent = u64::try_from(begun.elapsed().as_micros())?;
            let call = topic.publish(&json!({ "sent": sent, "fill": "x".repeat(SIZE - 40) }));
            publisher.send(&call).await?;
        }
        anyhow::Ok(())
    };
    let (times, published) = tokio::join!(receiving, publishing);
    published?;
    let mut all = Vec::new();
    for of_one in times {
        all.extend(of_one?);
    }
    let after = service.resident_kib()?;
    println!(
        "{SUBSCRIBERS} subscribers × 20/s beside {STALLED} that read nothing: {} (p99 at most 100 ms wanted), memory {} → {} MiB",
        Quantiles::of(all),
        before / 1024,
        after / 1024
    );
    drop(stalled);
    topic.delete(api).await
}

/// One message in a hundred fails again and again: what the others feel of it.
pub(super) async fn poison(platform: &Platform, api: &Api) -> anyhow::Result<()> {
    let settings = json!({ "kind": "queue", "maxAttempts": 5, "backoffMs": 100 });
    let mut p99 = Vec::new();
    for (what, every) in [("clean", usize::MAX), ("one poison in 100", 100)] {
        let topic = Topic::make(platform, api, "bench-poison", &settings).await?;
        let times = Quantiles::of(flow(api, &topic, COUNT, |n| n % every == every - 1).await?);
        println!("Good messages, {what}: {times}");
        p99.push(times.p99.as_secs_f64());
        topic.delete(api).await?;
    }
    println!("  p99 {:.2} × (at most 1.5 wanted)", p99[1] / p99[0]);
    Ok(())
}
