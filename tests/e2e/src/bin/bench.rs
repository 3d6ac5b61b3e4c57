//! `cargo xtask bench journey`: what the gateway costs, against calling the service itself in the same run, and what the
//! seven services hold in memory.
#![expect(clippy::print_stdout, reason = "telling is its purpose")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use kronos_e2e::api::{Api, Target};
use serde::Deserialize;

/// Calls of each kind in one round; rounds alternate, so that both kinds meet the same machine.
const CALLS: usize = 500;
const ROUNDS: usize = 10;

/// Measures Kronos against a platform that is up.
#[derive(Parser)]
struct Arguments {
    /// What: `journey`.
    name: String,
    /// The output of `cargo xtask status --json`, in a file.
    #[arg(long)]
    target: PathBuf,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(flatten)]
    target: Target,
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    pid: u32,
    api: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    kronos_common::service::install_crypto();
    let arguments = Arguments::parse();
    let text = std::fs::read(&arguments.target).with_context(|| format!("read {}", arguments.target.display()))?;
    let platform: Platform = serde_json::from_slice(&text).context("read the platform's description")?;
    match arguments.name.as_str() {
        "journey" => journey(&platform).await,
        other => bail!("there is no benchmark `{other}`: there is `journey`"),
    }
}

async fn journey(platform: &Platform) -> anyhow::Result<()> {
    memory(platform)?;
    let through = Api::client(&platform.target, "hyperion").await?;
    let cache = platform.services.get("cache-service").context("no cache-service")?;
    let base = if cache.api.starts_with("http") { cache.api.clone() } else { format!("http://{}", cache.api) };
    let direct = through.at(base);
    let key = "/cache/bench/gateway";
    let stored = through.request(reqwest::Method::PUT, key).body(vec![b'x'; 1_024]).send().await?;
    ensure!(stored.status().is_success(), "PUT {key}: {}", stored.status());
    time_calls(&direct, key, CALLS).await?;
    time_calls(&through, key, CALLS).await?;
    let (mut of_direct, mut of_gateway) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_direct.extend(time_calls(&direct, key, CALLS).await?);
        of_gateway.extend(time_calls(&through, key, CALLS).await?);
    }
    println!("GET of 1 KiB from cache-service, one call at a time, {} calls each, alternating:", CALLS * ROUNDS);
    let (direct, gateway) = (Quantiles::of(of_direct), Quantiles::of(of_gateway));
    println!("  the service itself      {direct}");
    println!("  through the gateway     {gateway}");
    let added = gateway.p50.saturating_sub(direct.p50);
    println!(
        "  the gateway adds        p50 {added:?} (at most 1 ms wanted), {:.2} ×",
        gateway.p50.as_secs_f64() / direct.p50.as_secs_f64()
    );
    Ok(())
}

async fn time_calls(api: &Api, path: &str, calls: usize) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        let response = api.request(reqwest::Method::GET, path).send().await?.error_for_status()?;
        response.bytes().await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

struct Quantiles {
    p50: Duration,
    p99: Duration,
}

impl Quantiles {
    fn of(mut times: Vec<Duration>) -> Self {
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

/// Resident memory of each service, from /proc.
fn memory(platform: &Platform) -> anyhow::Result<()> {
    println!("Resident memory:");
    let mut sum = 0;
    for (name, service) in &platform.services {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid))
            .with_context(|| format!("read the memory of {name}"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number in VmRSS")?.parse().context("read VmRSS")?;
        println!("  {name:<20} {:>6.1} MB", kib as f64 / 1_024.0);
        sum += kib;
    }
    println!("  {:<20} {:>6.1} MB (at most 250 MB wanted, idle)", "together", sum as f64 / 1_024.0);
    Ok(())
}
