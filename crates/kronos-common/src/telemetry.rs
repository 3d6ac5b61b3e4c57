//! Logs, traces and the names of the metrics that every service has. Log lines are JSON on standard output and travel to
//! log-service as well (`log_shipping`); traces go to an OTLP collector.

use anyhow::Context as _;
use opentelemetry::{
    KeyValue,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _},
};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{config, log_shipping, trace::TraceContext};

/// Histogram of request seconds by `route` (template), `method` and `status`.
pub const HTTP_REQUEST_SECONDS: &str = "kronos_http_request_seconds";
/// Requests under way.
pub const HTTP_REQUESTS_IN_FLIGHT: &str = "kronos_http_requests_in_flight";
/// 1 if the dependency `name` answered its last check, else 0.
pub const DEPENDENCY_UP: &str = "kronos_dependency_up";
/// Log lines that were not shipped because the buffer was full.
pub const LOG_LINES_DROPPED: &str = "kronos_log_lines_dropped_total";

/// Events of the outbox that the broker has confirmed.
pub const OUTBOX_RELAYED: &str = "kronos_outbox_relayed_total";
/// Events that wait in the outbox, counted by the relay.
pub const OUTBOX_PENDING: &str = "kronos_outbox_pending";
/// Events that a `queue`'s handler has finished with, by `result`: handled, duplicate, retried, dead.
pub const EVENTS_CONSUMED: &str = "kronos_events_consumed_total";

/// Upper bounds of the latency buckets, in seconds.
pub const LATENCY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0];

/// Keeps the exporters alive; [`Telemetry::finish`] sends what they hold.
#[derive(Debug)]
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
    shipping: Option<log_shipping::Receiver>,
}

/// Installs the process's log and trace pipeline. Call it once.
///
/// # Errors
/// A filter that does not parse, or an endpoint that is no URL.
pub fn init(service: &'static str, config: &config::Telemetry) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_new(&config.log_level).context("configuration key `telemetry.log_level`")?;
    let tracer = config.traces_endpoint.as_deref().map(|endpoint| tracer(service, endpoint, config)).transpose()?;
    let (layer, shipping) = match config.logs_endpoint {
        Some(_) => {
            let (layer, receiver) = log_shipping::channel(service)?;
            (Some(layer), Some(receiver))
        }
        None => (None, None),
    };
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_filter(tracing_subscriber::filter::filter_fn(|metadata| {
            !metadata.is_span() || metadata.name() == "request"
        }));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(layer)
        .with(tracer.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("kronos"))))
        .try_init()
        .context("install the log pipeline")?;
    Ok(Telemetry { tracer, shipping })
}

impl Telemetry {
    /// What collects this process's lines for log-service, if that is configured; to be taken once.
    pub fn take_shipping(&mut self) -> Option<log_shipping::Receiver> {
        self.shipping.take()
    }

    /// Sends what the trace exporter still holds.
    pub fn finish(self) {
        if let Some(Err(error)) = self.tracer.map(|tracer| tracer.shutdown()) {
            tracing::warn!(%error, "traces were not all exported");
        }
    }
}

fn tracer(service: &'static str, endpoint: &str, config: &config::Telemetry) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .context("configuration key `telemetry.traces_endpoint`")?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_sample_ratio)));
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(
            Resource::builder()
                .with_attribute(KeyValue::new("service.name", service))
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build(),
        )
        .build())
}

/// Makes `span` a part of the caller's trace, and tells which hop it is. Without an exporter it is a hop all the same, so
/// that trace ids are on every problem and log line.
pub fn adopt(span: &tracing::Span, parent: Option<TraceContext>) -> TraceContext {
    if let Some(parent) = parent {
        let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let remote = SpanContext::new(
            TraceId::from(parent.trace_id),
            SpanId::from(parent.span_id),
            flags,
            true,
            TraceState::default(),
        );
        // Fails only where no exporter is installed, and then there is nothing to attach it to.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote));
    }
    let own = span.context().span().span_context().clone();
    if own.is_valid() {
        return TraceContext {
            trace_id: u128::from_be_bytes(own.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(own.span_id().to_bytes()),
            sampled: own.is_sampled(),
        };
    }
    parent.map_or_else(|| TraceContext::random(false), TraceContext::child)
}
