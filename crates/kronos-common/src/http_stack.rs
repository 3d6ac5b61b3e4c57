//! What surrounds every handler of every service: trace, metrics, one log line, a deadline, a body limit, panics and
//! unknown paths turned into problems, and `/openapi.json`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use prometheus::{HistogramOpts, HistogramVec, IntGauge};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;
use utoipa::openapi::{
    InfoBuilder, OpenApi,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    config, leftover,
    problem::{Problem, ProblemBody},
    request_lines::RequestLines,
    service::Context,
    telemetry::{self, HTTP_REQUEST_SECONDS, HTTP_REQUESTS_IN_FLIGHT, LATENCY_BUCKETS},
    trace::{self, TRACEPARENT, TraceContext},
};

/// The layers, made once for each service.
#[derive(Debug, Clone)]
pub struct HttpStack {
    name: &'static str,
    seconds: HistogramVec,
    in_flight: IntGauge,
    lines: Arc<RequestLines>,
    timeout: Duration,
    slow_routes: Arc<HashMap<&'static str, Duration>>,
    body_limit_bytes: usize,
}

impl HttpStack {
    /// Registers the stack's metrics.
    pub fn new(context: &Context, http: &config::Http) -> Self {
        let seconds = HistogramOpts::new(HTTP_REQUEST_SECONDS, "Seconds from a request's arrival to its answer's head")
            .buckets(LATENCY_BUCKETS.to_vec());
        let seconds = HistogramVec::new(seconds, &["route", "method", "status"]).expect("name and labels are valid");
        let in_flight =
            IntGauge::new(HTTP_REQUESTS_IN_FLIGHT, "Requests whose answer has not begun").expect("the name is valid");
        Self {
            name: context.name,
            seconds: context.register(seconds),
            in_flight: context.register(in_flight),
            lines: Arc::new(RequestLines::new(http.request_lines_per_second)),
            timeout: Duration::from_millis(http.request_timeout_ms),
            slow_routes: Arc::new(context.slow_routes()),
            body_limit_bytes: http.body_limit_bytes,
        }
    }

    /// Puts the layers around a service's own routes.
    pub fn finish(self, routes: OpenApiRouter) -> Router {
        let (router, document) = routes.split_for_parts();
        // Its bytes, made once: a layer that owned the document would copy it for every route and every request.
        let document = describe(self.name, document).to_json().expect("a document has only texts for keys");
        let document = Bytes::from(document);
        let json = [(header::CONTENT_TYPE, "application/json")];
        router
            .route("/openapi.json", axum::routing::get(async move || (json, document.clone())))
            .fallback(async || Problem::not_found("path"))
            .method_not_allowed_fallback(async |method: Method| {
                let detail = format!("{method} is not possible on this path, see Allow");
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
            })
            .layer(CatchPanicLayer::custom(|_| {
                Problem::internal(anyhow::anyhow!("a handler panicked")).into_response()
            }))
            .layer(DefaultBodyLimit::max(self.body_limit_bytes))
            .layer(middleware::from_fn_with_state(self, observe))
    }
}

/// Trace, metrics, log line, deadline.
async fn observe(State(stack): State<HttpStack>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    // Who waits to be asked for the body is not asked for one that is refused.
    let is_sending = !head.headers.contains_key(header::EXPECT);
    let (body, leftover) = leftover::track(body);
    let request = Request::from_parts(head, body);
    let begun = Instant::now();
    let method = known_method(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let parent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(TraceContext::parse);
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.route = route,
        trace_id = tracing::field::Empty,
    );
    let context = telemetry::adopt(&span, parent);
    span.record("trace_id", context.trace_id_text());
    let _in_flight = InFlight::enter(stack.in_flight.clone());
    let timeout = stack.slow_routes.get(route).copied().unwrap_or(stack.timeout);
    let answer = async {
        let response = match tokio::time::timeout(timeout, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "this took too long: try again")
                .with_retry_after(Duration::from_secs(1))
                .into_response(),
        };
        if is_sending && response.status().is_client_error() {
            leftover.discard().await;
        }
        let status = response.status();
        let elapsed = begun.elapsed();
        stack.seconds.with_label_values(&[route, method, status.as_str()]).observe(elapsed.as_secs_f64());
        let status = status.as_u16();
        let duration_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        // A service's own log lines arrive as OTLP logs: a line about each arrival would beget the next one.
        if route == "/v1/logs" {
            tracing::debug!(method, route, status, duration_us, "request");
        } else if let Some(unwritten) = stack.lines.admit(status, elapsed) {
            let unwritten = (unwritten > 0).then_some(unwritten);
            tracing::info!(method, route, status, duration_us, unwritten, "request");
        }
        response
    };
    let mut response = trace::scope(context, answer.instrument(span)).await;
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

struct InFlight(IntGauge);

impl InFlight {
    fn enter(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Methods are a caller's free text: only the known ones become labels.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn describe(name: &'static str, mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new().title(name).version(env!("CARGO_PKG_VERSION")).build();
    let components = document.components.get_or_insert_default();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    let mut schemas = Vec::new();
    <ProblemBody as utoipa::ToSchema>::schemas(&mut schemas);
    schemas.push(("ProblemBody".to_owned(), <ProblemBody as utoipa::PartialSchema>::schema()));
    components.schemas.extend(schemas);
    document
}
