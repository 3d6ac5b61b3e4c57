//! `cargo xtask bench`: figures of a platform that is up, as ratios where a ratio can be had in the same run.
#![expect(clippy::print_stdout, reason = "telling is its purpose")]

mod auth;
mod gateway;
mod journey;
mod keycloak;
mod load;
mod messaging;
mod user;
mod verification;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser;
use kronos_e2e::api::Target;
use serde::Deserialize;

/// Measures Kronos against a platform that is up.
#[derive(Parser)]
struct Arguments {
    /// What: `journey`, `auth`, `user`, `gateway` or `messaging`.
    name: String,
    /// The output of `cargo xtask status --json`, in a file.
    #[arg(long)]
    target: PathBuf,
    /// For `gateway`: another binary than the platform's own.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// For `gateway`: Envoy's program, to measure it too.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// For `auth`: Keycloak too, and how the two compare.
    #[arg(long)]
    keycloak: bool,
}

#[derive(Deserialize)]
pub(crate) struct Platform {
    #[serde(flatten)]
    pub(crate) target: Target,
    pub(crate) services: BTreeMap<String, Service>,
    #[serde(default)]
    pub(crate) stores: BTreeMap<String, Store>,
}

#[derive(Deserialize)]
pub(crate) struct Store {
    pub(crate) url: String,
}

#[derive(Deserialize)]
pub(crate) struct Service {
    pub(crate) pid: u32,
    api: String,
    /// Its other instances.
    #[serde(default)]
    pub(crate) more: Vec<Service>,
}

// One thread: what the load costs is one core at most, and is told.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    kronos_common::service::install_crypto();
    let arguments = Arguments::parse();
    let text = std::fs::read(&arguments.target).with_context(|| format!("read {}", arguments.target.display()))?;
    let platform: Platform = serde_json::from_slice(&text).context("read the platform's description")?;
    match arguments.name.as_str() {
        "journey" => journey::journey(&platform).await,
        "auth" => {
            let figures = auth::auth(&platform).await?;
            if arguments.keycloak { keycloak::compare(&platform, &figures).await } else { Ok(()) }
        }
        "user" => user::user(&platform).await,
        "gateway" => {
            let programs = gateway::Programs { binary: arguments.binary, envoy: arguments.envoy };
            gateway::gateway(&platform, programs).await
        }
        "messaging" => messaging::messaging(&platform).await,
        other => {
            bail!("there is no benchmark `{other}`: there are `journey`, `auth`, `user`, `gateway` and `messaging`")
        }
    }
}

impl Platform {
    pub(crate) fn service(&self, name: &str) -> anyhow::Result<&Service> {
        self.services.get(name).with_context(|| format!("no {name}"))
    }
}

impl Service {
    /// The base URL of its API.
    pub(crate) fn url(&self) -> String {
        if self.api.starts_with("http") { self.api.clone() } else { format!("http://{}", self.api) }
    }

    pub(crate) fn resident_kib(&self) -> anyhow::Result<u64> {
        resident_kib(self.pid)
    }
}

/// Resident memory of a process, from /proc.
pub(crate) fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("read the memory of process {pid}"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().nth(1).context("no number in VmRSS")?.parse().context("read VmRSS")
}

pub(crate) struct Quantiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Quantiles {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        Self { p50: at(50), p99: at(99) }
    }
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:?}, p99 {:?}", self.p50, self.p99)
    }
}
