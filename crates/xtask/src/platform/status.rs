//! `status`: what runs where, for people and (`--json`) for scripts.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::{
    DEV,
    services::{self, ADMIN, CALLERS, GATEWAY, SERVICES},
};
use crate::{
    instance::{Instance, Secrets, read_json, write_json},
    stores::{self, Stores, without_password},
};

/// The answer of `status --json`.
#[derive(Serialize)]
struct Status {
    gateway: String,
    admin: Admin,
    clients: BTreeMap<&'static str, Client>,
    services: BTreeMap<&'static str, Running>,
    stores: BTreeMap<&'static str, Store>,
}

#[derive(Serialize)]
struct Admin {
    username: &'static str,
    password: String,
}

#[derive(Serialize)]
struct Client {
    id: &'static str,
    secret: String,
}

/// One process of a service; `pid` is null when it has ended.
#[derive(Serialize)]
struct Running {
    pid: Option<u32>,
    api: String,
    operations: String,
    /// Further instances, made by `scale`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more: Vec<Running>,
}

#[derive(Serialize)]
struct Store {
    url: String,
    pid: Option<u32>,
}

/// Where a further instance listens; the instance's `instances.json` has one for each, by process name.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) api: u16,
    pub(super) operations: u16,
}

pub(super) fn places(instance: &Instance) -> anyhow::Result<BTreeMap<String, Place>> {
    Ok(read_json(&instance.dir.join("instances.json"))?.unwrap_or_default())
}

pub(super) fn write_places(instance: &Instance, places: &BTreeMap<String, Place>) -> anyhow::Result<()> {
    write_json(&instance.dir.join("instances.json"), places)
}

/// The names of a service's further processes: `auth-service-2`, `auth-service-3`, …
pub(super) fn is_further(process: &str, service: &str) -> bool {
    process
        .strip_prefix(service)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// `cargo xtask status [--json]`.
pub(crate) fn status(json: bool) -> anyhow::Result<()> {
    let instance = Instance::look(DEV)?;
    let status = read(&instance)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let processes = instance.alive();
    let row = |name: &str, pid: Option<u32>, address: &str| {
        let state = pid.map_or("not running".to_owned(), |pid| format!("pid {pid}"));
        let memory = pid.and_then(resident).map_or(String::new(), |mib| format!("{mib:>5} MiB"));
        println!("  {name:<20} {state:<12} {memory:<10} {address}");
    };
    println!("Services");
    for (name, running) in &status.services {
        row(name, running.pid, &format!("{}  operations {}", running.api, running.operations));
        for more in &running.more {
            row("  and", more.pid, &format!("{}  operations {}", more.api, more.operations));
        }
    }
    println!("Stores");
    for (name, store) in &status.stores {
        row(name, store.pid, &without_password(&store.url));
    }
    let all = SERVICES.iter().map(|service| service.name).chain(stores::NAMES);
    let ended: Vec<&str> = all.filter(|name| !processes.iter().any(|process| process.name == *name)).collect();
    if !ended.is_empty() {
        if Instance::is_busy(DEV)? {
            println!("Another `cargo xtask` is working on it at this moment.");
            return Ok(());
        }
        bail!(
            "{} does not run; its log: cargo xtask logs {}; to start it again: cargo xtask up",
            ended.join(", "),
            ended[0]
        );
    }
    Ok(())
}

fn read(instance: &Instance) -> anyhow::Result<Status> {
    let stores: Option<Stores> = read_json(&instance.dir.join("stores.json"))?;
    let Some(stores) = stores.filter(|_| !instance.alive().is_empty()) else {
        bail!("Kronos is not up; to start it: cargo xtask up");
    };
    let secrets = Secrets::open(instance)?;
    let pid = |name: &str| instance.find(name).map(|process| process.pid);
    let places = places(instance)?;
    let mut clients = BTreeMap::new();
    for id in CALLERS {
        clients.insert(id, Client { id, secret: services::client_secret(&secrets, id)? });
    }
    let services = SERVICES.iter().map(|service| {
        let more = places
            .iter()
            .filter(|(name, _)| is_further(name, service.name))
            .map(|(name, place)| running(pid(name), place.api, place.operations, Vec::new()))
            .collect();
        (service.name, running(pid(service.name), service.api, service.operations, more))
    });
    let services = services.collect();
    Ok(Status {
        gateway: services::url(services::by_name(GATEWAY)?.api),
        admin: Admin { username: ADMIN, password: services::admin_password(&secrets)? },
        clients,
        services,
        stores: stores
            .by_name()
            .map(|(name, store)| (name, Store { url: store.url.clone(), pid: pid(name) }))
            .into_iter()
            .collect(),
    })
}

fn running(pid: Option<u32>, api: u16, operations: u16, more: Vec<Running>) -> Running {
    Running { pid, api: services::url(api), operations: services::url(operations), more }
}

/// Writes the answer of `status --json` to a file of the instance.
pub(super) fn write_file(instance: &Instance) -> anyhow::Result<PathBuf> {
    let file = instance.dir.join("status.json");
    write_json(&file, &read(instance)?)?;
    Ok(file)
}

/// Addresses, credentials, and what to try first.
pub(super) fn print_summary(instance: &Instance) -> anyhow::Result<()> {
    write_file(instance)?;
    let status = read(instance)?;
    let Admin { username, password } = &status.admin;
    let hyperion = status.clients.get("hyperion").context("the clients")?;
    let gateway = &status.gateway;
    println!("\nGateway   {gateway}     its API: {gateway}/openapi.json");
    println!("Services");
    for (name, running) in &status.services {
        println!("  {name:<20} {}   operations {}", running.api, running.operations);
    }
    println!("Stores");
    for (name, store) in &status.stores {
        println!("  {name:<20} {}", without_password(&store.url));
    }
    println!("Administrator   {username}   {password}");
    println!("OAuth clients   {}", CALLERS.join(" "));
    println!("Every credential: cargo xtask status --json");
    println!("\nTo try:");
    println!(
        "  curl -s {gateway}/auth/login -H 'content-type: application/json' \\\n    \
         -d '{{\"username\":\"{username}\",\"password\":\"{password}\"}}'"
    );
    println!(
        "  curl -s {gateway}/oauth/token -u '{}:{}' -d grant_type=client_credentials",
        hyperion.id, hyperion.secret
    );
    println!("  cargo xtask demo");
    Ok(())
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_instances_are_told_from_other_services() {
        assert!(is_further("auth-service-2", "auth-service"));
        assert!(!is_further("auth-service", "auth-service"));
        assert!(!is_further("auth-service-x", "auth-service"));
    }
}
