//! Active health checks: every instance of an upstream that asks for it is asked for a path at an interval, and left out
//! while it does not answer well. The policy `healthCheck`. One task per instance and policy; it outlives changes of routes
//! that do not concern it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kronos_common::{problem::FieldError, service::Context};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use utoipa::ToSchema;

use crate::{instance::Instance, live::Live, table::Table, telemetry::Metrics, trust, upstream_spec::Protocol};

/// How instances are asked whether they are well. Any answer from 200 to 299 is a good one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheckSpec {
    /// What is asked for, by GET.
    #[schema(min_length = 1, max_length = 512, pattern = "^/", example = "/health")]
    pub path: String,
    /// How often, in milliseconds; up to a tenth is added at random, so that gateways do not ask all at once. Default: 5000.
    #[serde(default = "five_seconds")]
    #[schema(minimum = 50, maximum = 3_600_000)]
    pub interval_ms: u64,
    /// An answer that takes longer is none, in milliseconds. Default: 1000.
    #[serde(default = "one_second")]
    #[schema(minimum = 1, maximum = 60_000)]
    pub timeout_ms: u64,
    /// So many good answers in a row bring it back. Default: 2.
    #[serde(default = "two")]
    #[schema(minimum = 1, maximum = 100)]
    pub healthy: u32,
    /// So many bad ones in a row leave it out. Default: 3.
    #[serde(default = "three")]
    #[schema(minimum = 1, maximum = 100)]
    pub unhealthy: u32,
}

fn five_seconds() -> u64 {
    5_000
}

fn one_second() -> u64 {
    1_000
}

fn two() -> u32 {
    2
}

fn three() -> u32 {
    3
}

impl HealthCheckSpec {
    /// Everything that is wrong with it.
    pub fn check(&self, errors: &mut Vec<FieldError>) {
        let target = self.path.parse::<http::uri::PathAndQuery>();
        if !self.path.starts_with('/') || self.path.len() > 512 || target.is_err() {
            let detail = "begin it with `/`, at most 512 characters";
            errors.push(FieldError::new("/healthCheck/path", "invalid_path", detail));
        }
        let mut within = |field: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                let detail = format!("from {least} to {most}");
                errors.push(FieldError::new(format!("/healthCheck/{field}"), "out_of_range", detail));
            }
        };
        within("intervalMs", self.interval_ms, 50, 3_600_000);
        within("timeoutMs", self.timeout_ms, 1, 60_000);
        within("healthy", self.healthy.into(), 1, 100);
        within("unhealthy", self.unhealthy.into(), 1, 100);
    }
}

type Checks = HashMap<(u64, Protocol, HealthCheckSpec), Check>;

/// A task that asks one instance.
struct Check {
    upstream: Arc<str>,
    task: JoinHandle<()>,
}

/// Instances are asked in the protocol and with the trust that requests have.
struct Clients {
    http1: reqwest::Client,
    http2: reqwest::Client,
}

/// Keeps one task for every instance that is to be asked, as the routes say.
///
/// # Errors
/// The HTTP client can't be made.
pub fn start(live: Arc<Live>, tls: &ClientConfig, metrics: Metrics, context: &Context) -> anyhow::Result<()> {
    let clients = Clients { http1: trust::http(tls, false)?, http2: trust::http(tls, true)? };
    let shutdown = context.shutdown.clone();
    context.spawn("health-checks", async move {
        let mut checks = Checks::new();
        let mut changes = live.changes();
        let follow = async {
            loop {
                changes.mark_unchanged();
                reconcile(&live.table(), &mut checks, &clients, &metrics);
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! { () = shutdown.cancelled() => {}, () = follow => {} }
        checks.into_values().for_each(|check| check.task.abort());
    });
    Ok(())
}

fn reconcile(table: &Table, checks: &mut Checks, clients: &Clients, metrics: &Metrics) {
    let mut wanted = HashMap::new();
    for upstream in table.upstreams() {
        let Some(spec) = &upstream.health_check else { continue };
        for member in &upstream.balancer.members {
            wanted.entry((member.instance.id, upstream.protocol, spec.clone())).or_insert((upstream, &member.instance));
        }
    }
    checks.retain(|key, check| {
        let is_gone = table.upstream(&check.upstream).is_none();
        let stays = wanted.contains_key(key) && !is_gone;
        if !stays {
            check.task.abort();
        }
        if is_gone {
            // It may have counted once more since the table forgot it; an error says only that it had not.
            let _ = metrics.health_failures.remove_label_values(&[&*check.upstream]);
        }
        stays
    });
    for (key, (upstream, instance)) in wanted {
        let spec = key.2.clone();
        let client = match upstream.protocol {
            Protocol::Http1 => &clients.http1,
            Protocol::H2c | Protocol::H2 => &clients.http2,
        };
        checks.entry(key).or_insert_with(|| {
            let name = Arc::clone(&upstream.name);
            let watched = watch(Arc::clone(&name), Arc::clone(instance), spec, client.clone(), metrics.clone());
            Check { upstream: name, task: tokio::spawn(watched) }
        });
    }
}

/// Asks one instance for ever. What it found out ends with it.
async fn watch(
    name: Arc<str>,
    instance: Arc<Instance>,
    spec: HealthCheckSpec,
    client: reqwest::Client,
    metrics: Metrics,
) {
    let url = format!("{}{}", instance.url(), spec.path);
    let (mut complaint, mut good, mut bad) = (None, 0, 0);
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..=spec.interval_ms / 10))).await;
    loop {
        if is_well(&client, &url, Duration::from_millis(spec.timeout_ms)).await {
            (good, bad) = (good + 1, 0);
            if good >= spec.healthy && complaint.take().is_some() {
                tracing::info!(upstream = &*name, instance = instance.authority.as_str(), "instance is well again");
            }
        } else {
            (good, bad) = (0, bad + 1);
            metrics.health_failures.with_label_values(&[&*name]).inc();
            if bad >= spec.unhealthy && complaint.is_none() {
                complaint = Some(instance.complain());
                tracing::warn!(upstream = &*name, instance = instance.authority.as_str(), "instance is not well");
            }
        }
        let jitter = rand::random_range(0..=spec.interval_ms / 10);
        tokio::time::sleep(Duration::from_millis(spec.interval_ms + jitter)).await;
    }
}

async fn is_well(client: &reqwest::Client, url: &str, timeout: Duration) -> bool {
    client.get(url).timeout(timeout).send().await.is_ok_and(|answer| answer.status().is_success())
}
