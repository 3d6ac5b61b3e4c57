//! What the gateway costs, against calling the service itself in the same run, and what the seven services hold in memory.

use std::time::{Duration, Instant};

use anyhow::ensure;
use kronos_e2e::api::Api;

use crate::{Platform, Quantiles};

/// Calls of each kind in one round; rounds alternate, so that both kinds meet the same machine.
const CALLS: usize = 500;
const ROUNDS: usize = 10;

/// Measures it.
pub(crate) async fn journey(platform: &Platform) -> anyhow::Result<()> {
    memory(platform)?;
    let through = Api::client(&platform.target, "hyperion").await?;
    let direct = through.at(platform.service("cache-service")?.url());
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

/// Resident memory of each service, from /proc.
fn memory(platform: &Platform) -> anyhow::Result<()> {
    println!("Resident memory:");
    let mut sum = 0;
    for (name, service) in &platform.services {
        let kib = service.resident_kib()?;
        println!("  {name:<20} {:>6.1} MB", kib as f64 / 1_024.0);
        sum += kib;
    }
    println!("  {:<20} {:>6.1} MB (at most 250 MB wanted, idle)", "together", sum as f64 / 1_024.0);
    Ok(())
}
