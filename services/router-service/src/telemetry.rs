//! The gateway's own metrics. Labels are bounded: routes are configured, methods and statuses are classes.

use std::time::Duration;

use kronos_common::{service::Context, telemetry::LATENCY_BUCKETS};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts};

/// Seconds of a request, until the answer's last byte, by `route`, `method` and `status` class.
pub const REQUEST_SECONDS: &str = "kronos_gateway_request_seconds";
/// Connections of clients.
pub const CONNECTIONS: &str = "kronos_gateway_connections";
/// Connections that were cut, by `reason`.
pub const CONNECTIONS_CUT: &str = "kronos_gateway_connections_cut_total";
/// Second attempts, by `upstream`.
pub const RETRIES: &str = "kronos_gateway_retries_total";
/// Attempts that failed at an instance, by `upstream` and `kind`.
pub const UPSTREAM_FAILURES: &str = "kronos_gateway_upstream_failures_total";
/// Instances that were left out for failing, by `upstream`.
pub const EJECTIONS: &str = "kronos_gateway_ejections_total";
/// Health checks that failed, by `upstream`.
pub const HEALTH_FAILURES: &str = "kronos_gateway_health_check_failures_total";
/// Circuit breakers that opened, by `upstream`.
pub const BREAKERS_OPENED: &str = "kronos_gateway_breakers_opened_total";
/// Requests that an upstream was not asked for, by `upstream` and `reason` (`breaker`, `full`).
pub const SHED: &str = "kronos_gateway_shed_total";
/// Second attempts beside a slow first one, by `upstream`.
pub const HEDGES: &str = "kronos_gateway_hedges_total";
/// Copies of requests, by `upstream` and `outcome` (`sent`, `failed`, `dropped`).
pub const MIRRORED: &str = "kronos_gateway_mirrored_total";
/// Requests that a limit refused, by `route`.
pub const LIMITED: &str = "kronos_gateway_limited_total";
/// Requests that a route's filter took for attacks, by `route` and `outcome`.
pub const FILTERED: &str = "kronos_gateway_filtered_total";
/// The version of the routes that are served.
pub const TABLE_VERSION: &str = "kronos_gateway_table_version";
/// Changes of routes that could not be taken over.
pub const TABLE_FAILURES: &str = "kronos_gateway_table_failures_total";
/// Lines of the request log that were dropped, because their writer was behind.
pub const REQUEST_LINES_DROPPED: &str = "kronos_gateway_request_lines_dropped_total";

/// Records of the audit trail that were dropped, because Kafka did not take them.
pub const AUDIT_DROPPED: &str = "kronos_gateway_audit_dropped_total";

/// `kind` of [`UPSTREAM_FAILURES`]: no connection, broken off, a status that says so, no answer in time.
pub const FAILURE_KINDS: [&str; 4] = ["connect", "broken", "status", "timeout"];
const SHED_REASONS: [&str; 2] = ["breaker", "full"];
const MIRROR_OUTCOMES: [&str; 3] = ["sent", "failed", "dropped"];
const FILTER_OUTCOMES: [&str; 2] = ["blocked", "monitored"];
/// Requests under way at an upstream, by `upstream`.
pub const UPSTREAM_IN_FLIGHT: &str = "kronos_gateway_upstream_in_flight";
/// How many of them `maxConcurrent` allows now, by `upstream`.
pub const UPSTREAM_MOST_IN_FLIGHT: &str = "kronos_gateway_upstream_most_in_flight";
/// Instances, by `upstream` and `state` (`available`, `left-out`).
pub const UPSTREAM_INSTANCES: &str = "kronos_gateway_upstream_instances";

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Registered once for a gateway.
#[derive(Debug, Clone)]
pub struct Metrics {
    seconds: HistogramVec,
    pub connections: IntGauge,
    pub connections_cut: IntCounterVec,
    pub retries: IntCounterVec,
    pub upstream_failures: IntCounterVec,
    pub ejections: IntCounterVec,
    pub health_failures: IntCounterVec,
    pub breakers_opened: IntCounterVec,
    pub shed: IntCounterVec,
    pub hedges: IntCounterVec,
    pub mirrored: IntCounterVec,
    pub limited: IntCounterVec,
    pub filtered: IntCounterVec,
    pub table_version: IntGauge,
    pub table_failures: IntCounter,
    pub lines_dropped: IntCounter,
    pub audit_dropped: IntCounter,
}

impl Metrics {
    pub fn new(context: &Context) -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            context.register(IntCounterVec::new(Opts::new(name, help), labels).expect("name and labels are valid"))
        };
        let counter =
            |name: &str, help: &str| context.register(IntCounter::new(name, help).expect("the name is valid"));
        let gauge = |name: &str, help: &str| context.register(IntGauge::new(name, help).expect("the name is valid"));
        let seconds = HistogramOpts::new(REQUEST_SECONDS, "Seconds of a request until the answer's last byte")
            .buckets(LATENCY_BUCKETS.to_vec());
        let seconds = HistogramVec::new(seconds, &["route", "method", "status"]).expect("name and labels are valid");
        Self {
            seconds: context.register(seconds),
            connections: gauge(CONNECTIONS, "Connections of clients"),
            connections_cut: counters(CONNECTIONS_CUT, "Connections that were cut", &["reason"]),
            retries: counters(RETRIES, "Second attempts", &["upstream"]),
            upstream_failures: counters(UPSTREAM_FAILURES, "Attempts that failed", &["upstream", "kind"]),
            ejections: counters(EJECTIONS, "Instances that were left out for failing", &["upstream"]),
            health_failures: counters(HEALTH_FAILURES, "Health checks that failed", &["upstream"]),
            breakers_opened: counters(BREAKERS_OPENED, "Circuit breakers that opened", &["upstream"]),
            shed: counters(SHED, "Requests that an upstream was not asked for", &["upstream", "reason"]),
            hedges: counters(HEDGES, "Second attempts beside a slow first one", &["upstream"]),
            mirrored: counters(MIRRORED, "Copies of requests", &["upstream", "outcome"]),
            limited: counters(LIMITED, "Requests that a limit refused", &["route"]),
            filtered: counters(FILTERED, "Requests that look like attacks", &["route", "outcome"]),
            table_version: gauge(TABLE_VERSION, "The version of the routes that are served"),
            table_failures: counter(TABLE_FAILURES, "Changes of routes that could not be taken over"),
            lines_dropped: counter(REQUEST_LINES_DROPPED, "Lines of the request log that were dropped"),
            audit_dropped: counter(AUDIT_DROPPED, "Records of the audit trail that were dropped"),
        }
    }

    /// One route's histograms.
    pub fn route(&self, name: &str) -> RouteSeconds {
        RouteSeconds { vector: self.seconds.clone(), route: name.into(), children: Default::default() }
    }

    /// Forgets a route that is gone, so that series stay bounded however often routes change.
    pub fn forget_route(&self, name: &str) {
        for method in METHODS {
            for status in STATUSES {
                // An error says only that there was none.
                let _ = self.seconds.remove_label_values(&[name, method, status]);
            }
        }
        let _ = self.limited.remove_label_values(&[name]);
        for outcome in FILTER_OUTCOMES {
            let _ = self.filtered.remove_label_values(&[name, outcome]);
        }
    }

    /// The same for an upstream.
    pub fn forget_upstream(&self, name: &str) {
        let plain = [&self.retries, &self.ejections, &self.health_failures, &self.breakers_opened, &self.hedges];
        for counters in plain {
            // An error says only that there was none.
            let _ = counters.remove_label_values(&[name]);
        }
        let labelled = [
            (&self.upstream_failures, &FAILURE_KINDS[..]),
            (&self.shed, &SHED_REASONS[..]),
            (&self.mirrored, &MIRROR_OUTCOMES[..]),
        ];
        for (counters, values) in labelled {
            for value in values {
                let _ = counters.remove_label_values(&[name, value]);
            }
        }
    }
}

/// A route's histograms, each looked up once.
#[derive(Debug)]
pub struct RouteSeconds {
    vector: HistogramVec,
    route: Box<str>,
    children: [[std::sync::OnceLock<Histogram>; STATUSES.len()]; METHODS.len()],
}

impl RouteSeconds {
    pub fn observe(&self, method: &http::Method, status: u16, took: Duration) {
        let method = method_class(method);
        let status = usize::from(status / 100).clamp(1, STATUSES.len()) - 1;
        let child = self.children[method][status]
            .get_or_init(|| self.vector.with_label_values(&[&*self.route, METHODS[method], STATUSES[status]]));
        child.observe(took.as_secs_f64());
    }
}

/// A method as a label: callers may send any word.
pub fn method_label(method: &http::Method) -> &'static str {
    METHODS[method_class(method)]
}

fn method_class(method: &http::Method) -> usize {
    match *method {
        http::Method::GET => 0,
        http::Method::HEAD => 1,
        http::Method::POST => 2,
        http::Method::PUT => 3,
        http::Method::PATCH => 4,
        http::Method::DELETE => 5,
        http::Method::OPTIONS => 6,
        _ => METHODS.len() - 1,
    }
}
