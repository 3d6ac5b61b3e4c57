//! The operations listener: `/live`, `/ready`, `/metrics`, `/version`. A second port, never routed by the gateway.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::{BoxFuture, join_all};
use prometheus::{IntGaugeVec, Opts, Registry, TextEncoder};
use serde::Serialize;
use serde_json::json;

use crate::{problem::Problem, telemetry};

/// How long an answer of a dependency is believed.
const FRESH: Duration = Duration::from_secs(1);
/// How long a dependency may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the service can do without a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criticality {
    /// Nothing: it is not ready.
    Critical,
    /// Less, or slower: it is ready, and says what is away.
    Degraded,
}

type Check = Arc<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

#[derive(Clone)]
struct Dependency {
    name: &'static str,
    criticality: Criticality,
    check: Check,
    last: Arc<tokio::sync::Mutex<Option<(Instant, bool)>>>,
}

/// Whether the service takes requests, and what it depends on.
#[derive(Clone)]
pub(crate) struct Readiness {
    open: Arc<AtomicBool>,
    dependencies: Arc<Mutex<Vec<Dependency>>>,
    up: IntGaugeVec,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Readiness {
    pub(crate) fn new(metrics: &Registry) -> Self {
        let up = IntGaugeVec::new(Opts::new(telemetry::DEPENDENCY_UP, "1 if the dependency answered"), &["name"])
            .expect("the metric's name and label are valid");
        metrics.register(Box::new(up.clone())).expect("a new registry holds nothing of this name");
        Self { open: Arc::default(), dependencies: Arc::default(), up }
    }

    pub(crate) fn add(
        &self,
        name: &'static str,
        criticality: Criticality,
        check: impl Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync + 'static,
    ) {
        let dependency = Dependency { name, criticality, check: Arc::new(check), last: Arc::default() };
        let mut dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner);
        dependencies.retain(|known| known.name != name);
        dependencies.push(dependency);
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    async fn report(&self) -> Report {
        let dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let states = join_all(dependencies.iter().map(Dependency::is_up)).await;
        let open = self.open.load(Ordering::Acquire);
        let mut ready = open;
        let mut list = Vec::new();
        for (dependency, up) in dependencies.iter().zip(states) {
            self.up.with_label_values(&[dependency.name]).set(i64::from(up));
            ready &= up || dependency.criticality == Criticality::Degraded;
            let required = dependency.criticality == Criticality::Critical;
            list.push(DependencyState { name: dependency.name, up, required });
        }
        Report { ready, accepting: open, dependencies: list }
    }
}

impl Dependency {
    async fn is_up(&self) -> bool {
        let mut last = self.last.lock().await;
        if let Some((when, up)) = *last
            && when.elapsed() < FRESH
        {
            return up;
        }
        let up = match tokio::time::timeout(PATIENCE, (self.check)()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(dependency = self.name, error = format!("{error:#}"), "dependency is away");
                false
            }
            Err(_) => false,
        };
        *last = Some((Instant::now(), up));
        up
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ready: bool,
    /// False before the start is complete and while draining.
    accepting: bool,
    dependencies: Vec<DependencyState>,
}

#[derive(Debug, Serialize)]
struct DependencyState {
    name: &'static str,
    up: bool,
    required: bool,
}

#[derive(Clone)]
struct Operations {
    name: &'static str,
    metrics: Registry,
    readiness: Readiness,
}

pub(crate) fn router(name: &'static str, metrics: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/live", get(async || Json(json!({ "live": true }))))
        .route("/ready", get(show_readiness))
        .route("/metrics", get(show_metrics))
        .route("/version", get(show_version))
        .fallback(async || Problem::not_found("path: there are /live, /ready, /metrics and /version"))
        .with_state(Operations { name, metrics, readiness })
}

async fn show_readiness(State(operations): State<Operations>) -> (StatusCode, Json<Report>) {
    let report = operations.readiness.report().await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report))
}

async fn show_metrics(State(operations): State<Operations>) -> Response {
    // Dependencies are looked at by whoever watches, so that their gauge is never stale.
    operations.readiness.report().await;
    let mut families = operations.metrics.gather();
    families.extend(prometheus::default_registry().gather());
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => Problem::internal(error).into_response(),
    }
}

async fn show_version(State(operations): State<Operations>) -> Json<serde_json::Value> {
    Json(json!({ "service": operations.name, "version": env!("CARGO_PKG_VERSION") }))
}
