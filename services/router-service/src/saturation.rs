//! How full upstreams are, counted when somebody asks for the metrics: what goes up and down with each request is known already,
//! so that no request pays for it, and an upstream that is gone is told of no more.

use std::{sync::Arc, time::Instant};

use prometheus::{
    GaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    live::Live,
    telemetry::{UPSTREAM_IN_FLIGHT, UPSTREAM_INSTANCES, UPSTREAM_MOST_IN_FLIGHT},
};

/// Looks at the table that is served.
#[derive(Debug, Clone)]
pub struct Saturation {
    live: Arc<Live>,
    /// Where the clock of the instances' state begins.
    epoch: Instant,
    described: [GaugeVec; 3],
}

impl Saturation {
    pub fn new(live: Arc<Live>, epoch: Instant) -> Self {
        Self { live, epoch, described: gauges() }
    }
}

/// Requests under way, the most that may be, instances.
fn gauges() -> [GaugeVec; 3] {
    let gauges = |name: &str, help: &str, labels: &[&str]| {
        GaugeVec::new(Opts::new(name, help), labels).expect("name and labels are valid")
    };
    [
        gauges(UPSTREAM_IN_FLIGHT, "Requests under way at an upstream", &["upstream"]),
        gauges(UPSTREAM_MOST_IN_FLIGHT, "Requests that an upstream may have under way", &["upstream"]),
        gauges(UPSTREAM_INSTANCES, "Instances of an upstream", &["upstream", "state"]),
    ]
}

impl Collector for Saturation {
    fn desc(&self) -> Vec<&Desc> {
        self.described.iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        let [in_flight, most, instances] = gauges();
        for upstream in self.live.table().upstreams() {
            let (name, members) = (&*upstream.name, &upstream.balancer.members);
            let under_way: u32 = members.iter().map(|member| member.instance.in_flight()).sum();
            in_flight.with_label_values(&[name]).set(under_way.into());
            if let Some(concurrency) = &upstream.concurrency {
                most.with_label_values(&[name]).set(concurrency.most().into());
            }
            let available = members.iter().filter(|member| member.instance.is_available(now)).count();
            for (state, count) in [("available", available), ("left-out", members.len() - available)] {
                instances.with_label_values(&[name, state]).set(count as f64);
            }
        }
        [in_flight, most, instances].iter().flat_map(Collector::collect).collect()
    }
}
