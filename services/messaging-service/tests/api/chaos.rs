//! kill -9 to everything in turn while messages flow: to two real programs, RabbitMQ, Kafka and PostgreSQL. Nothing that was
//! answered with a 2xx is lost, nothing is invented, nothing comes again once acknowledged, and each key keeps its order.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use kronos_testkit::{Issuer, OwnKafka, OwnPostgres, OwnRabbit, TestDatabase, http, wait_up_to};
use messaging_service::Config;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::{ALL, PATIENCE, Program, configuration, text};

const TOPICS: [(&str, &str); 2] = [("stream", "robots"), ("queue", "orders")];
const CALLERS: usize = 16;
/// Messages of all callers in a second.
const PER_SECOND: u32 = 250;
/// What it goes well for, between two faults.
const BREATH: Duration = Duration::from_millis(700);

/// When a broker of RabbitMQ 3.10 has surely written down that a new queue is there: its raft library saves the members' names and
/// terms half a second and five seconds after the last change (`auto_save` in ra 2.2's `ra_directory` and `ra_log_meta`). One that
/// is killed before does not serve that queue again.
const WRITTEN_DOWN: Duration = Duration::from_secs(6);

/// What everybody who publishes and takes shares.
struct World {
    issuer: Issuer,
    apis: Mutex<[SocketAddr; 2]>,
    turn: AtomicUsize,
    /// Payload → message id of what was answered with a 2xx.
    acknowledged: Mutex<HashMap<String, String>>,
    tried: Mutex<HashSet<String>>,
    /// The faults are over.
    calm: AtomicBool,
}

/// What was taken of one topic.
#[derive(Default)]
struct Taken {
    /// Payload → message id.
    got: HashMap<String, String>,
    settled: HashSet<String>,
    /// By key, the numbers in the order in which they first came.
    order: HashMap<String, Vec<usize>>,
    wrong: Vec<String>,
}

impl World {
    /// A fresh one: the slow test outlives any.
    fn token(&self) -> String {
        self.issuer.token("tester", &ALL)
    }

    /// Now this instance, now that.
    fn url(&self, path: &str) -> String {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        format!("http://{}{path}", self.apis.lock().unwrap()[turn % 2])
    }

    /// At a steady rate until the faults are over, and at least so many.
    async fn publish(&self, caller: usize, count: usize) {
        let http = client();
        let (_, topic) = TOPICS[caller % 2];
        let mut ticks = tokio::time::interval(Duration::from_secs(1) * u32::try_from(CALLERS).unwrap() / PER_SECOND);
        for n in 0.. {
            if n >= count && self.calm.load(Ordering::Relaxed) {
                return;
            }
            ticks.tick().await;
            let key = format!("{caller}-{}", n % 4);
            let payload = format!("{topic}/{key}/{n}");
            self.tried.lock().unwrap().insert(payload.clone());
            let message = json!({ "topic": topic, "payload": payload, "key": key });
            let sent = http.post(self.url("/publish")).bearer_auth(self.token()).json(&message).send().await;
            let Ok(answer) = sent else { continue };
            if !answer.status().is_success() {
                // It promises nothing.
                assert_eq!(answer.status(), 503, "{:?}", answer.text().await);
                continue;
            }
            if let Ok(answer) = answer.json::<Value>().await {
                self.acknowledged.lock().unwrap().insert(payload, text(&answer, "messageId").to_owned());
            }
        }
    }

    /// Takes and acknowledges until all is there that must be.
    async fn take_all(&self, topic: &str) -> Taken {
        let (http, mut taken, mut since) = (client(), Taken::default(), Instant::now());
        loop {
            let before = taken.got.len();
            self.take(&http, topic, &mut taken).await;
            if !self.calm.load(Ordering::Relaxed) || taken.got.len() > before {
                since = Instant::now();
                continue;
            }
            // Of what came and was acknowledged, the answer to that may have been lost: it does not come again.
            let acknowledged = self.acknowledged.lock().unwrap();
            let of_topic = acknowledged.iter().filter(|(payload, _)| payload.starts_with(topic));
            let missing: Vec<_> = of_topic.filter(|(payload, id)| taken.got.get(*payload) != Some(*id)).collect();
            if missing.is_empty() {
                break;
            }
            assert!(since.elapsed() < PATIENCE * 2, "{topic}: {} are lost, such as {:?}", missing.len(), missing[0]);
        }
        taken
    }

    async fn take(&self, http: &reqwest::Client, topic: &str, taken: &mut Taken) {
        let path = self.url(&format!("/subscribe/{topic}?mode=poll&group=g&max=100&waitMs=200"));
        let Ok(answer) = http.get(path).bearer_auth(self.token()).send().await else {
            sleep(Duration::from_millis(20)).await;
            return;
        };
        let Ok(polled) = answer.json::<Value>().await else { return };
        let messages = polled["messages"].as_array().cloned().unwrap_or_default();
        for message in &messages {
            let (id, payload) = (text(message, "messageId").to_owned(), text(message, "payload").to_owned());
            if taken.settled.contains(&id) {
                taken.wrong.push(format!("{payload} was acknowledged, and came again"));
            }
            match taken.got.insert(payload.clone(), id.clone()) {
                Some(other) if other != id => taken.wrong.push(format!("{payload} came as {other} and as {id}")),
                Some(_) => {}
                None => {
                    let number = payload.rsplit('/').next().unwrap().parse().unwrap();
                    taken.order.entry(text(message, "key").to_owned()).or_default().push(number);
                }
            }
        }
        let acks = messages.iter().map(async |message| {
            let path = self.url(&format!("/ack/{}", text(message, "deliveryId")));
            let answer = http.post(path).bearer_auth(self.token()).send().await.ok()?;
            (answer.status() == 204).then(|| text(message, "messageId").to_owned())
        });
        taken.settled.extend(join_all(acks).await.into_iter().flatten());
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_invented_doubled_or_reordered_while_everything_is_killed_in_turn() {
    everything_is_killed_in_turn(5000, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn nothing_is_lost_of_a_hundred_thousand_messages_while_everything_is_killed_twenty_times() {
    everything_is_killed_in_turn(100_000, 20).await;
}

async fn everything_is_killed_in_turn(messages: usize, rounds: usize) {
    let (mut rabbit, mut kafka, mut postgres) =
        tokio::join!(OwnRabbit::start(), OwnKafka::start(), OwnPostgres::start("kronos_messaging", "messaging"));
    let (database, issuer) = (TestDatabase::create().await, Issuer::start().await);
    let mut config = configuration(&database, &issuer).await;
    config.postgres = postgres.config();
    config.rabbit = rabbit.config();
    config.kafka = kafka.config();
    let mut programs = [Program::start(&config).await, Program::start(&config).await];
    let world = Arc::new(World {
        issuer,
        apis: Mutex::new([programs[0].api, programs[1].api]),
        turn: AtomicUsize::new(0),
        acknowledged: Mutex::default(),
        tried: Mutex::default(),
        calm: AtomicBool::new(false),
    });
    let admin = http(programs[0].api).bearer(world.token());
    for (kind, topic) in TOPICS {
        let settings =
            json!({ "name": topic, "kind": kind, "ordering": "strict", "leaseMs": 2000, "maxAttempts": 100 });
        let created = async || admin.post("/topics", &settings).await.status == 201;
        wait_up_to(PATIENCE, "the topic is created", created).await;
    }
    sleep(WRITTEN_DOWN).await;
    let takers = TOPICS.map(|(_, topic)| {
        let world = world.clone();
        tokio::spawn(async move { world.take_all(topic).await })
    });
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let world = world.clone();
            tokio::spawn(async move { world.publish(caller, messages / CALLERS).await })
        })
        .collect();

    for round in 0..rounds {
        sleep(BREATH).await;
        rabbit.kill();
        rabbit.restart().await;
        sleep(BREATH).await;
        kafka.kill();
        kafka.restart().await;
        sleep(BREATH).await;
        postgres.kill();
        postgres.restart().await;
        sleep(BREATH).await;
        restart(&mut programs[round % 2], &config, &world, round % 2).await;
        // Both at once, too: a broker, and the instance that was speaking to it.
        restart(&mut programs[1 - round % 2], &config, &world, 1 - round % 2).await;
    }
    sleep(BREATH).await;
    world.calm.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let mut all = 0;
    for taker in takers {
        let taken = taker.await.unwrap();
        assert!(taken.wrong.is_empty(), "{:?}", &taken.wrong[..taken.wrong.len().min(5)]);
        let (acknowledged, tried) = (world.acknowledged.lock().unwrap(), world.tried.lock().unwrap());
        let invented: Vec<_> = taken.got.keys().filter(|payload| !tried.contains(*payload)).collect();
        assert!(invented.is_empty(), "invented: {invented:?}");
        for (key, numbers) in &taken.order {
            let known =
                |n: &&usize| TOPICS.iter().any(|(_, topic)| acknowledged.contains_key(&format!("{topic}/{key}/{n}")));
            let kept: Vec<_> = numbers.iter().filter(known).collect();
            assert!(kept.is_sorted(), "key {key}: {kept:?}");
        }
        all += taken.settled.len();
    }
    assert!(all > messages / 2, "only {all} came: this proves little");
    for program in programs {
        program.kill().await;
    }
}

/// kill -9, and another one in its place.
async fn restart(program: &mut Program, config: &Config, world: &World, place: usize) {
    let next = Program::start(config).await;
    world.apis.lock().unwrap()[place] = next.api;
    std::mem::replace(program, next).kill().await;
}
