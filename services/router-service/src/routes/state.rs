//! What one gateway knows of an upstream now, as `/upstreams` and `/routes/explain` tell it.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{balance::Method, breaker::Position, table::Upstream};

/// An upstream as this gateway sees it now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamState {
    /// How an instance is chosen.
    pub balance: Method,
    /// Retries that it could afford.
    pub retries_left: u64,
    /// Absent: it has no breaker.
    pub breaker: Option<Position>,
    /// Requests that it may have under way; absent: unbounded.
    pub max_concurrent: Option<u32>,
    /// Requests under way, of those that are bounded.
    pub concurrent: Option<u32>,
    /// Those with a weight.
    pub instances: Vec<InstanceState>,
}

/// An instance as this gateway sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceState {
    pub url: String,
    pub weight: u32,
    /// False while it is left out for failing.
    pub available: bool,
    /// False while its health check says so.
    pub healthy: bool,
    pub in_flight: u32,
    /// Absent: not known yet, or forgotten.
    pub latency_ms: Option<f64>,
    /// With `p2c`, the lower of two is asked.
    pub cost: f64,
    /// The part of its share that it gets: less than 1 while it starts slowly.
    pub readiness: f64,
}

impl UpstreamState {
    /// `now`: microseconds on the gateway's clock.
    pub fn of(upstream: &Upstream, now: u64) -> Self {
        let balancer = &upstream.balancer;
        let instances = balancer.members.iter().map(|member| {
            let (instance, latency) = (&member.instance, member.instance.latency(now));
            InstanceState {
                url: instance.url(),
                weight: member.weight,
                available: instance.is_available(now),
                healthy: instance.is_healthy(),
                in_flight: instance.in_flight(),
                latency_ms: (latency >= 1.0).then_some(latency / 1000.0),
                cost: instance.cost(now),
                readiness: instance.readiness(now, balancer.slow_us),
            }
        });
        Self {
            balance: balancer.method,
            retries_left: upstream.budget.left(),
            breaker: upstream.breaker.as_ref().map(|breaker| breaker.position(now)),
            max_concurrent: upstream.concurrency.as_ref().map(|concurrency| concurrency.most()),
            concurrent: upstream.concurrency.as_ref().map(|concurrency| concurrency.taken()),
            instances: instances.collect(),
        }
    }
}
