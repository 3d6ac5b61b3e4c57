//! The life of a service, the same for all seven: bind → connect → ready → serve → not ready → drain → end.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{Router, serve::ListenerExt as _};
use futures::future::BoxFuture;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa_axum::router::OpenApiRouter;

pub use crate::{
    cli::{Extra, install_crypto, main, main_with},
    operations::Criticality,
};
use crate::{
    config,
    http_stack::HttpStack,
    operations::{self, Readiness},
};

/// What a service hands to all its parts.
#[derive(Debug, Clone)]
pub struct Context {
    /// Such as `auth-service`.
    pub name: &'static str,
    /// This service's metrics; a test may run several services in one process.
    pub metrics: prometheus::Registry,
    /// Cancelled when requests are no longer taken: streams and loops end then.
    pub shutdown: CancellationToken,
    /// Every task that must end before the service has ended.
    pub tasks: TaskTracker,
    readiness: Readiness,
    /// Routes that may take longer than others.
    slow_routes: Arc<Mutex<HashMap<&'static str, Duration>>>,
}

impl Context {
    /// A context that belongs to no running service: for tools and tests.
    pub fn detached(name: &'static str) -> Self {
        let metrics = prometheus::Registry::new();
        let readiness = Readiness::new(&metrics);
        let (shutdown, tasks, slow_routes) = (CancellationToken::new(), TaskTracker::new(), Arc::default());
        Self { name, metrics, shutdown, tasks, readiness, slow_routes }
    }

    /// Gives a route, by its template, so many seconds instead of `[http] request_timeout_ms`: for bodies that stream. Call it
    /// while connecting.
    pub fn allow_seconds(&self, route: &'static str, seconds: u64) {
        let mut routes = self.slow_routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.insert(route, Duration::from_secs(seconds));
    }

    pub(crate) fn slow_routes(&self) -> HashMap<&'static str, Duration> {
        self.slow_routes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows a dependency in `/ready`. The check runs at most once a second and has one second; what is
    /// [`Criticality::Critical`] and fails makes the service not ready.
    pub fn depends_on(
        &self,
        name: &'static str,
        criticality: Criticality,
        check: impl Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync + 'static,
    ) {
        self.readiness.add(name, criticality, check);
    }

    /// Starts a background task. It must end soon after `shutdown` is cancelled; one that panics is logged.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task);
        self.tasks.spawn(async move {
            if let Err(error) = handle.await
                && error.is_panic()
            {
                tracing::error!(task = name, "background task panicked");
            }
        });
    }

    /// Registers a metric.
    ///
    /// # Panics
    /// If the name is taken: two metrics of one name are a mistake in the code.
    pub fn register<C: prometheus::core::Collector + Clone + 'static>(&self, metric: C) -> C {
        self.metrics.register(Box::new(metric.clone())).expect("each metric is registered once");
        metric
    }
}

/// A running service.
#[derive(Debug)]
pub struct Running {
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where operations listen.
    pub operations: SocketAddr,
    context: Context,
    http: config::Http,
    operations_end: CancellationToken,
}

/// Starts a service: binds both listeners, serves the operations one, connects, serves the API, says ready.
///
/// # Errors
/// A taken port, or what `connect` says.
pub async fn start<C, F>(name: &'static str, http: &config::Http, connect: C) -> anyhow::Result<Running>
where
    C: FnOnce(Context) -> F,
    F: Future<Output = anyhow::Result<OpenApiRouter>>,
{
    start_with(name, http, connect, serve_axum).await
}

/// As [`start`], for a service that serves its API listener itself: `serve` is given the bound listener and the finished
/// router, starts its tasks in the context, and returns at once.
///
/// # Errors
/// As [`start`].
pub async fn start_with<C, F, S>(
    name: &'static str,
    http: &config::Http,
    connect: C,
    serve: S,
) -> anyhow::Result<Running>
where
    C: FnOnce(Context) -> F,
    F: Future<Output = anyhow::Result<OpenApiRouter>>,
    S: FnOnce(&Context, TcpListener, Router) -> anyhow::Result<()>,
{
    let begun = Instant::now();
    let api_listener = bind(http.bind).await?;
    let operations_listener = bind(http.operations_bind).await?;
    let running = Running {
        api: api_listener.local_addr().context("read the API listener's address")?,
        operations: operations_listener.local_addr().context("read the operations listener's address")?,
        context: Context::detached(name),
        http: http.clone(),
        operations_end: CancellationToken::new(),
    };
    let context = &running.context;
    // The operations listener outlives the drain, so that it can be watched.
    let end = running.operations_end.clone();
    let operations = operations::router(name, context.metrics.clone(), context.readiness.clone());
    tokio::spawn(async move {
        if let Err(error) =
            axum::serve(operations_listener, operations).with_graceful_shutdown(end.cancelled_owned()).await
        {
            tracing::error!(%error, "operations listener failed");
        }
    });
    let started = async {
        let router = connect(context.clone()).await?;
        let router = HttpStack::new(context, http).finish(router);
        serve(context, api_listener, router)
    };
    if let Err(error) = started.await {
        running.abandon().await;
        return Err(error);
    }
    context.readiness.open();
    let startup_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(service = name, api = %running.api, operations = %running.operations, startup_ms, "ready");
    Ok(running)
}

fn serve_axum(context: &Context, listener: TcpListener, router: Router) -> anyhow::Result<()> {
    let shutdown = context.shutdown.clone();
    let listener = listener.tap_io(|stream| {
        // Only a hint: without it small answers may wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
    });
    context.tasks.spawn(async move {
        let server = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>());
        if let Err(error) = server.with_graceful_shutdown(shutdown.cancelled_owned()).await {
            tracing::error!(%error, "API listener failed");
        }
    });
    Ok(())
}

impl Running {
    /// The context that the service's parts got.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    ///
    /// # Errors
    /// The signals can't be listened to.
    pub async fn until_signal(self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        self.context.readiness.close();
        tracing::info!(service = self.context.name, "draining");
        time::sleep(Duration::from_millis(self.http.drain_delay_ms)).await;
        self.stop().await;
        Ok(())
    }

    /// Drains now: no new requests, streams end, requests under way finish until the deadline.
    pub async fn stop(self) {
        let Self { context, http, operations_end, .. } = self;
        context.readiness.close();
        context.shutdown.cancel();
        context.tasks.close();
        if time::timeout(Duration::from_millis(http.drain_deadline_ms), context.tasks.wait()).await.is_err() {
            tracing::warn!(service = context.name, left = context.tasks.len(), "drain deadline passed");
        }
        operations_end.cancel();
        tracing::info!(service = context.name, "stopped");
    }

    async fn abandon(self) {
        self.context.shutdown.cancel();
        self.context.tasks.close();
        let _ = time::timeout(Duration::from_secs(1), self.context.tasks.wait()).await;
        self.operations_end.cancel();
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("listen on {address}: is another process using the port? (set `http.bind` or `http.operations_bind`)")
    })
}
