//! The stores, real ones: started in parallel on private loopback ports inside an instance, with generated passwords.
//! Each file beside this one knows how one of them starts and when it is ready.

mod elasticsearch;
mod java;
mod kafka;
mod postgres;
mod rabbitmq;
mod redis;
mod template;

use std::{
    collections::BTreeMap,
    process::Child,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub(crate) use postgres::Psql;
pub(crate) use template::migrate;

use crate::{
    instance::{Instance, Secrets, read_json, write_json},
    packages,
    ports::Ports,
    process::{self, Process, Spec},
    progress::{Progress, Said},
};

pub(crate) const TEST: &str = "test";
pub(crate) const NAMES: [&str; 5] = ["postgres", "redis", "rabbitmq", "kafka", "elasticsearch"];

/// Roles that `database-admin migrate` creates, each with a generated password.
pub(crate) const ROLES: [&str; 9] = [
    "kronos_auth",
    "kronos_users",
    "kronos_logs",
    "kronos_cache",
    "kronos_router",
    "kronos_messaging",
    "kronos_dbadmin",
    "kronos_reader",
    "kronos_backup",
];

/// What the stores are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Fast and forgetful.
    Tests,
    /// Durable, as a platform's should be.
    Platform,
}

/// Where the stores are: the content of `stores.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stores {
    pub(crate) postgres: Store,
    pub(crate) redis: Store,
    pub(crate) rabbitmq: Store,
    pub(crate) kafka: Store,
    pub(crate) elasticsearch: Store,
    pub(crate) role_passwords: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Store {
    pub(crate) url: String,
    pub(crate) pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) management_url: Option<String>,
}

impl Stores {
    /// Those of the instance, if every one of them is alive.
    pub(crate) fn running(instance: &Instance) -> anyhow::Result<Option<Self>> {
        let alive = instance.alive();
        if NAMES.iter().all(|name| alive.iter().any(|process| process.name == *name)) {
            read_json(&instance.dir.join("stores.json"))
        } else {
            Ok(None)
        }
    }

    pub(crate) fn by_name(&self) -> [(&'static str, &Store); 5] {
        [
            ("postgres", &self.postgres),
            ("redis", &self.redis),
            ("rabbitmq", &self.rabbitmq),
            ("kafka", &self.kafka),
            ("elasticsearch", &self.elasticsearch),
        ]
    }
}

/// What each store needs to start.
pub(crate) struct Starter<'a> {
    instance: &'a Instance,
    secrets: &'a Secrets,
    purpose: Purpose,
    ports: Mutex<Ports>,
    progress: &'a Progress,
}

impl Starter<'_> {
    fn port(&self) -> anyhow::Result<u16> {
        self.ports.lock().expect("nobody panics while holding it").take()
    }

    /// Starts and remembers one process.
    fn spawn(&self, spec: &Spec) -> anyhow::Result<(Process, Child)> {
        let (process, child) = process::spawn(spec)?;
        self.instance.remember(process.clone())?;
        Ok((process, child))
    }

    fn step(&self, name: &str, start: impl FnOnce(&Self, &Said) -> anyhow::Result<Store>) -> anyhow::Result<Store> {
        self.progress.step(name, |said| {
            let store = start(self, said)?;
            said.say(without_password(&store.url));
            Ok(store)
        })
    }
}

/// Starts all five at once. If one fails, those already started are the caller's to stop.
pub(crate) fn start(instance: &Instance, purpose: Purpose, progress: &Progress) -> anyhow::Result<Stores> {
    let secrets = Secrets::open(instance)?;
    let starter = Starter { instance, secrets: &secrets, purpose, ports: Mutex::new(Ports::new()?), progress };
    let starter = &starter;
    let jars = java::Jars::ensure(progress)?;
    let jars = &jars;
    let stores = std::thread::scope(|scope| {
        // The slow ones first.
        let elasticsearch = scope.spawn(move || starter.step("elasticsearch", |s, _| elasticsearch::start(s, jars)));
        let rabbitmq = scope.spawn(move || starter.step("rabbitmq", |s, _| rabbitmq::start(s)));
        let kafka = scope.spawn(move || starter.step("kafka", |s, said| kafka::start(s, jars, said)));
        let postgres = scope.spawn(move || starter.step("postgres", |s, _| postgres::start(s)));
        let redis = scope.spawn(move || starter.step("redis", |s, _| redis::start(s)));
        let join = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<Store>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the step panicked")))
        };
        let (elasticsearch, rabbitmq, kafka) = (join(elasticsearch), join(rabbitmq), join(kafka));
        let (postgres, redis) = (join(postgres), join(redis));
        anyhow::Ok(Stores {
            postgres: postgres?,
            redis: redis?,
            rabbitmq: rabbitmq?,
            kafka: kafka?,
            elasticsearch: elasticsearch?,
            role_passwords: BTreeMap::new(),
        })
    });
    let mut stores = stores.context("start the stores")?;
    for role in ROLES {
        stores.role_passwords.insert(role.to_owned(), secrets.get(role)?);
    }
    write_json(&instance.dir.join("stores.json"), &stores)?;
    Ok(stores)
}

/// The test stores: those that run, or fresh ones. Says whether it started them. The template database is current after.
pub(crate) fn ensure_test_stores(instance: &Instance, progress: &Progress) -> anyhow::Result<(Stores, bool)> {
    let (stores, fresh) = match Stores::running(instance)? {
        Some(stores) => (stores, false),
        None => {
            packages::ensure(progress)?;
            instance.stop(|_| true, Duration::from_secs(2))?;
            instance.remove()?;
            std::fs::create_dir_all(&instance.dir)?;
            let started = start(instance, Purpose::Tests, progress);
            if started.is_err() {
                instance.stop(|_| true, Duration::from_secs(2))?;
            }
            (started?, true)
        }
    };
    template::ensure(instance, &stores, progress)?;
    Ok((stores, fresh))
}

/// `cargo xtask stores [--detach]`.
pub(crate) fn command_start(detach: bool) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let mut instance = Instance::lock(TEST)?;
    let progress = Progress::new();
    let (stores, fresh) = ensure_test_stores(&instance, &progress)?;
    instance.unlock();
    let file = instance.dir.join("stores.json");
    if !fresh {
        println!("The test stores run already.");
    }
    for (name, store) in stores.by_name() {
        println!("  {name:<14} {:<34} pid {}", without_password(&store.url), store.pid);
    }
    println!("Addresses and passwords: {}", file.display());
    // Stores that somebody else has started are theirs to stop.
    if detach || !fresh {
        println!("To stop them: cargo xtask stores --stop");
        return Ok(());
    }
    drop(progress);
    println!("Ctrl-C stops them.");
    while !stop.load(std::sync::atomic::Ordering::Relaxed) && instance.alive().len() >= NAMES.len() {
        crate::pause(Duration::from_millis(100));
    }
    stop_test_stores(&Instance::lock(TEST)?)
}

/// `cargo xtask stores --stop`.
pub(crate) fn command_stop() -> anyhow::Result<()> {
    stop_test_stores(&Instance::lock(TEST)?)
}

/// Ends the test stores and removes their data.
pub(crate) fn stop_test_stores(instance: &Instance) -> anyhow::Result<()> {
    let count = instance.alive().len();
    // Their data goes with them: there is nothing to wait for.
    instance.stop(|_| true, Duration::from_secs(3))?;
    instance.remove()?;
    println!("{count} processes of the test stores stopped, their data removed.");
    Ok(())
}

/// Becomes true at the first Ctrl-C or SIGTERM; the second one ends this process at once.
pub(crate) fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// A URL that may be shown: `redis://:secret@host:1` becomes `redis://host:1`.
pub(crate) fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_password() {
        assert_eq!(without_password("redis://:secret@127.0.0.1:1"), "redis://127.0.0.1:1");
        assert_eq!(without_password("postgres://a:b@127.0.0.1:1/x"), "postgres://127.0.0.1:1/x");
        assert_eq!(without_password("127.0.0.1:9092"), "127.0.0.1:9092");
    }
}
