//! `scale SERVICE=N`: more or fewer instances of a service, known to the gateway.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};

use super::{
    DEV,
    gateway::Gateway,
    services::{self, ADMIN, GATEWAY, Placed, Service},
    status::{Place, is_further, places, write_places},
};
use crate::{
    instance::{Instance, Secrets, read_json, root},
    pause,
    ports::Ports,
    progress::Progress,
    stores::Stores,
};

const MOST: usize = 16;

/// How many instances of which service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    service: String,
    count: usize,
}

impl std::str::FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (service, count) = text.split_once('=').context("write SERVICE=COUNT, such as messaging-service=2")?;
        let service = services::by_name(service)?.name.to_owned();
        let count = count.parse().ok().filter(|count| (1..=MOST).contains(count));
        Ok(Self { service, count: count.with_context(|| format!("the count is a number from 1 to {MOST}"))? })
    }
}

/// `cargo xtask scale SERVICE=N`.
pub(crate) fn scale(wanted: &Wanted) -> anyhow::Result<()> {
    let instance = Instance::lock(DEV)?;
    let service = services::by_name(&wanted.service)?;
    ensure!(!instance.alive().is_empty(), "Kronos is not up; to start it: cargo xtask up");
    let stores: Stores = read_json(&instance.dir.join("stores.json"))?.context("Kronos is not up")?;
    let secrets = Secrets::open(&instance)?;
    let mut places = places(&instance)?;
    // What has ended by itself is not an instance any more.
    places.retain(|name, _| !is_further(name, service.name) || instance.find(name).is_some());
    instance.stop(|process| is_further(&process.name, service.name) && !process.is_alive(), Duration::ZERO)?;

    let progress = Progress::new();
    start_missing(&instance, &stores, &secrets, service, wanted.count, &mut places, &progress)?;

    let further: Vec<String> = places.keys().filter(|name| is_further(name, service.name)).cloned().collect();
    let leaving: Vec<String> = further.iter().skip(wanted.count - 1).cloned().collect();
    let staying = further.iter().filter(|name| !leaving.contains(name)).map(|name| places[name].api);
    let urls: Vec<String> = std::iter::once(service.api).chain(staying).map(services::url).collect();
    if service.name == GATEWAY {
        println!("A gateway has none above it: put a load balancer before {}", urls.join(" "));
    } else {
        progress.step("gateway", |said| {
            let base = services::url(services::by_name(GATEWAY)?.api);
            let gateway = Gateway::login(&base, ADMIN, &services::admin_password(&secrets)?)?;
            gateway.set_instances(service.name, &urls)?;
            said.say(format!("sends to {}", urls.join(" ")));
            Ok(())
        })?;
    }
    if !leaving.is_empty() {
        // Every gateway instance has the new table by then; what is under way is drained after SIGTERM.
        pause(Duration::from_secs(1));
        progress.step("stop", |said| {
            instance.stop(|process| leaving.contains(&process.name), Duration::from_secs(25))?;
            places.retain(|name, _| !leaving.contains(name));
            said.say(leaving.join(" "));
            Ok(())
        })?;
    }
    write_places(&instance, &places)
}

/// Starts the first instance if it has ended, and further ones on free ports until there are `count`.
fn start_missing(
    instance: &Instance,
    stores: &Stores,
    secrets: &Secrets,
    service: &'static Service,
    count: usize,
    places: &mut BTreeMap<String, Place>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let binaries = root()?.join("target/release");
    let mut starting = Vec::new();
    if instance.find(service.name).is_none() {
        starting.push(Placed::first(service));
    }
    let mut ports = Ports::new()?;
    let mut number = 2;
    let mut present = places.keys().filter(|name| is_further(name, service.name)).count() + 1;
    while present < count {
        let process = format!("{}-{number}", service.name);
        if !places.contains_key(&process) {
            starting.push(Placed { service, process, api: ports.take()?, operations: ports.take()? });
            present += 1;
        }
        number += 1;
    }
    for placed in starting {
        progress.step(&placed.process, |said| {
            let (process, mut child) = services::spawn(instance, stores, secrets, &binaries, &placed)?;
            if let Err(error) = services::wait_ready(&placed, &process, &mut child) {
                instance.stop(|known| known.name == placed.process, Duration::from_secs(5))?;
                return Err(error);
            }
            said.say(services::url(placed.api));
            Ok(())
        })?;
        if placed.process != service.name {
            places.insert(placed.process.clone(), Place { api: placed.api, operations: placed.operations });
            write_places(instance, places)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_between_one_and_sixteen_of_a_known_service() {
        assert_eq!("auth-service=2".parse::<Wanted>().unwrap().count, 2);
        for bad in ["auth-service", "auth-service=0", "auth-service=17", "auth-service=x", "nobody=2"] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }
}
