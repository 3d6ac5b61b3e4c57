//! `POST /v1/logs`: OTLP/HTTP. The path and the answers are OpenTelemetry's (opentelemetry.io/docs/specs/otlp, OTLP/HTTP).

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use kronos_common::{
    extract::{Bytes, Json},
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use prost::Message as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::{CanWriteLogs, logs};
use crate::{
    App,
    otlp::{Export, Exported, PartialSuccess},
};

const PROTOBUF: &str = "application/x-protobuf";

/// `ExportLogsServiceResponse` in JSON.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OtlpAnswer {
    partial_success: OtlpPartialSuccess,
}

/// Empty if every record was kept.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OtlpPartialSuccess {
    /// A 64-bit number, which is a string in protobuf's JSON mapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_log_records: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
}

/// Keep OpenTelemetry logs
///
/// OTLP/HTTP in JSON or protobuf. The attribute `service.name` of the resource is the service; `log.record.uid`, if there is
/// one, is the id under which a record is kept once.
#[utoipa::path(
    post, path = "/v1/logs", tag = "log-service", security(("bearer" = [])),
    request_body(content((Object = "application/json"), (Vec<u8> = "application/x-protobuf"))),
    responses(
        (status = 200, body = OtlpAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 413, body = ProblemBody), (status = 415, body = ProblemBody),
        (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn export_logs(
    State(app): State<App>,
    _: Allowed<CanWriteLogs>,
    headers: HeaderMap,
    Bytes(body): Bytes,
) -> Result<Response> {
    let (export, protobuf) = read(&headers, &body)?;
    let now = Utc::now();
    let (mut lines, mut rejected, mut reason) = (Vec::new(), 0_usize, String::new());
    for new in export.into_lines() {
        match new.accept(now) {
            Ok(line) => lines.push(line),
            Err(refusals) => {
                rejected += 1;
                reason = refusals
                    .into_iter()
                    .map(|it| format!("{}: {}", it.field, it.detail))
                    .collect::<Vec<_>>()
                    .join("; ");
            }
        }
    }
    app.ingest.count_rejected("otlp", rejected);
    let receipt = app.ingest.write("otlp", lines).await.map_err(logs::refused)?;
    rejected += receipt.refused.len();
    Ok(answer(rejected, reason, protobuf))
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<(Export, bool)> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let detail = "send the body without compression";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => serde_json::from_slice(body).map(|export| (export, false)).map_err(|error| {
            if error.is_data() {
                Problem::field("", "invalid", format!("the body is no ExportLogsServiceRequest: {error}"))
            } else {
                Problem::bad_request("malformed_json", format!("the body is not valid JSON: {error}"))
            }
        }),
        PROTOBUF => Export::decode(body)
            .map(|export| (export, true))
            .map_err(|_| Problem::bad_request("malformed_protobuf", "the body is no ExportLogsServiceRequest")),
        _ => {
            let detail = "send the body as `application/json` or `application/x-protobuf`";
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
        }
    }
}

fn answer(rejected: usize, reason: String, protobuf: bool) -> Response {
    if protobuf {
        let partial_success = (rejected > 0).then(|| PartialSuccess {
            rejected_log_records: i64::try_from(rejected).unwrap_or(i64::MAX),
            error_message: reason,
        });
        let body = Exported { partial_success }.encode_to_vec();
        return ([(header::CONTENT_TYPE, PROTOBUF)], body).into_response();
    }
    let partial_success = if rejected > 0 {
        OtlpPartialSuccess { rejected_log_records: Some(rejected.to_string()), error_message: Some(reason) }
    } else {
        OtlpPartialSuccess::default()
    };
    Json(OtlpAnswer { partial_success }).into_response()
}
