//! The seven services as processes: ports, order, and the settings that each gets through its environment.
//! Which settings a service has is read from its own `config.default.toml`; nothing is set that it does not know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Child,
    time::Duration,
};

use anyhow::Context as _;
use base64::Engine as _;
use serde_json::json;

use crate::{
    instance::{Instance, Secrets, root, write_json},
    process::{self, Process, Spec, Stop},
    stores::Stores,
};

pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) api: u16,
    pub(crate) operations: u16,
    /// Its role in PostgreSQL.
    role: &'static str,
    /// Services of one wave start together, after those of the wave before.
    pub(crate) wave: u8,
}

pub(crate) const GATEWAY: &str = "router-service";

pub(crate) const SERVICES: [Service; 7] = [
    Service { name: "auth-service", api: 7010, operations: 7011, role: "kronos_auth", wave: 1 },
    Service { name: "user-service", api: 7020, operations: 7021, role: "kronos_users", wave: 2 },
    Service { name: "log-service", api: 7030, operations: 7031, role: "kronos_logs", wave: 2 },
    Service { name: "cache-service", api: 7040, operations: 7041, role: "kronos_cache", wave: 2 },
    Service { name: "messaging-service", api: 7050, operations: 7051, role: "kronos_messaging", wave: 2 },
    Service { name: "database-admin", api: 7060, operations: 7061, role: "kronos_dbadmin", wave: 2 },
    Service { name: GATEWAY, api: 8080, operations: 7000, role: "kronos_router", wave: 3 },
];

pub(crate) const SERVICE_NAMES: [&str; 7] =
    ["auth-service", "user-service", "log-service", "cache-service", "messaging-service", "database-admin", GATEWAY];

/// The systems that call Kronos, each an OAuth client.
pub(crate) const CALLERS: [&str; 6] = ["hyperion", "ouranos-crm", "ouranos-desk", "gaia", "hephaistos", "hermes"];

pub(crate) const ADMIN: &str = "admin";
/// The platform's database.
pub(crate) const DATABASE: &str = "kronos";

pub(crate) fn by_name(name: &str) -> anyhow::Result<&'static Service> {
    let names = || SERVICE_NAMES.join(", ");
    SERVICES
        .iter()
        .find(|service| service.name == name)
        .with_context(|| format!("there is no service {name}; there are {}", names()))
}

pub(crate) fn client_secret(secrets: &Secrets, client: &str) -> anyhow::Result<String> {
    secrets.get(&format!("client {client}"))
}

pub(crate) fn admin_password(secrets: &Secrets) -> anyhow::Result<String> {
    secrets.get("admin")
}

/// A service's address on the loopback interface.
pub(crate) fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// One instance of a service: the first has the service's own name and ports.
pub(crate) struct Placed {
    pub(crate) service: &'static Service,
    pub(crate) process: String,
    pub(crate) api: u16,
    pub(crate) operations: u16,
}

impl Placed {
    pub(crate) fn first(service: &'static Service) -> Self {
        Self { service, process: service.name.to_owned(), api: service.api, operations: service.operations }
    }
}

/// Starts one instance and remembers it, with its ports.
pub(crate) fn spawn(
    instance: &Instance,
    stores: &Stores,
    secrets: &Secrets,
    binaries: &Path,
    placed: &Placed,
) -> anyhow::Result<(Process, Child)> {
    let dir = instance.dir.join("run").join(&placed.process);
    fs::create_dir_all(&dir)?;
    let name = placed.service.name;
    let defaults = root()?.join("services").join(name).join("config.default.toml");
    let defaults = fs::read_to_string(&defaults).with_context(|| format!("read {}", defaults.display()))?;
    let known = keys(&defaults);
    let mut env = BTreeMap::new();
    for (key, value) in settings(instance, stores, secrets, placed)? {
        if known.contains(&key) || (key.starts_with("sealing.keys.") && known.contains("sealing.active")) {
            env.insert(variable(&key), value);
        }
    }
    let spec = Spec {
        name: placed.process.clone(),
        program: binaries.join(name),
        args: Vec::new(),
        env,
        dir,
        user: None,
        log: instance.logs()?.join(format!("{}.log", placed.process)),
        stop: Stop::Terminate,
    };
    let (process, child) = process::spawn(&spec)?;
    instance.remember(process.clone())?;
    Ok((process, child))
}

/// Waits until the instance calls itself ready.
pub(crate) fn wait_ready(placed: &Placed, process: &Process, child: &mut Child) -> anyhow::Result<()> {
    let ready = format!("{}/ready", url(placed.operations));
    process::wait_ready(process, child, Duration::from_secs(60), || ureq::get(&ready).call().is_ok())
}

/// Everything that a service might be told. What it does not know is left out.
fn settings(
    instance: &Instance,
    stores: &Stores,
    secrets: &Secrets,
    placed: &Placed,
) -> anyhow::Result<BTreeMap<String, String>> {
    let name = placed.service.name;
    let mut settings = BTreeMap::new();
    let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value);
    set("http.bind", format!("127.0.0.1:{}", placed.api));
    set("http.operations_bind", format!("127.0.0.1:{}", placed.operations));
    set("telemetry.logs_endpoint", url(7030));
    set("postgres.url", role_url(stores, placed.service.role)?);
    set("reader.url", role_url(stores, "kronos_reader")?);
    set("backup.url", role_url(stores, "kronos_backup")?);
    set("backup.pg_dump", "/usr/lib/postgresql/15/bin/pg_dump".to_owned());
    set("redis.url", stores.redis.url.clone());
    set("rabbit.url", stores.rabbitmq.url.clone());
    set("kafka.brokers", stores.kafka.url.clone());
    set("elasticsearch.url", stores.elasticsearch.url.clone());
    set("identity.client_id", name.to_owned());
    set("identity.client_secret", client_secret(secrets, name)?);
    set("sealing.active", "first".to_owned());
    set("sealing.keys.first", sealing_key(secrets, name)?);
    if name == "auth-service" {
        set("bootstrap.file", bootstrap_file(instance, secrets)?);
    }
    set("bootstrap.admin_username", ADMIN.to_owned());
    set("bootstrap.admin_email", "admin@kronos.localhost".to_owned());
    set("bootstrap.admin_password", admin_password(secrets)?);
    Ok(settings)
}

/// The platform's database as one role sees it.
pub(crate) fn role_url(stores: &Stores, role: &str) -> anyhow::Result<String> {
    let password = stores.role_passwords.get(role).with_context(|| format!("role {role} has no password"))?;
    let (_, address) = stores.postgres.url.rsplit_once('@').context("the address of PostgreSQL")?;
    let (address, _) = address.split_once('/').context("the address of PostgreSQL")?;
    Ok(format!("postgres://{role}:{password}@{address}/{DATABASE}"))
}

fn sealing_key(secrets: &Secrets, service: &str) -> anyhow::Result<String> {
    secrets.get_or(&format!("sealing {service}"), || {
        Ok(base64::engine::general_purpose::STANDARD.encode(crate::instance::random::<32>()?))
    })
}

/// The OAuth clients that auth-service makes at its first start: the callers, and the services themselves.
fn bootstrap_file(instance: &Instance, secrets: &Secrets) -> anyhow::Result<String> {
    let mut clients = BTreeMap::new();
    for name in CALLERS.into_iter().chain(SERVICE_NAMES) {
        clients.insert(name, json!({ "secret": client_secret(secrets, name)? }));
    }
    let path = instance.dir.join("clients.json");
    write_json(&path, &json!({ "clients": clients }))?;
    Ok(path.display().to_string())
}

/// `postgres.url` as `KRONOS_POSTGRES__URL`.
fn variable(key: &str) -> String {
    format!("KRONOS_{}", key.to_uppercase().replace('.', "__"))
}

/// The keys (`section.key`) that a commented default configuration names, those in comments too.
fn keys(toml: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in toml.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = header.0.to_owned();
            continue;
        }
        let words: Vec<&str> = line.trim_start_matches('#').split_whitespace().collect();
        for pair in words.windows(2) {
            if pair[1] == "=" || pair[1].starts_with("=\"") {
                keys.insert(format!("{section}.{}", pair[0]));
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_comments_count_and_prose_does_not() {
        let toml = "[telemetry]\nlog_level = \"info\"\n# traces_endpoint = \"x\", logs_endpoint = \"y\"\n# The level.\n\
                    [sealing]\nactive = \"\"\n[sealing.keys]\n";
        let found: Vec<String> = keys(toml).into_iter().collect();
        assert_eq!(
            found,
            ["sealing.active", "telemetry.log_level", "telemetry.logs_endpoint", "telemetry.traces_endpoint"]
        );
    }

    #[test]
    fn a_key_is_a_variable() {
        assert_eq!(variable("http.operations_bind"), "KRONOS_HTTP__OPERATIONS_BIND");
    }

    #[test]
    fn no_two_services_share_a_port() {
        let mut ports: Vec<u16> = SERVICES.iter().flat_map(|service| [service.api, service.operations]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 14);
        assert_eq!(SERVICES.each_ref().map(|service| service.name), SERVICE_NAMES);
    }
}
