//! `POST /logs`: one line, a list of lines, or one line of JSON after the other (NDJSON). Each line stands for itself.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use chrono::Utc;
use kronos_common::{
    extract::{self, Bytes, Json},
    identity::Allowed,
    problem::{FieldError, Problem, ProblemBody, Result},
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;
use utoipa::ToSchema;

use super::CanWriteLogs;
use crate::{
    App,
    jobs::writer::IngestError,
    line::{Line, NewLine, Refusal},
};

const NDJSON: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];

/// What became of the lines.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Written {
    /// Lines that are now kept, durably.
    accepted: usize,
    /// Lines that were known before, by service and id; they are kept once.
    duplicates: usize,
    /// Lines that are not kept, and why.
    rejected: Vec<Rejected>,
}

/// A line that is not kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rejected {
    /// Its place in the body, from 0.
    index: usize,
    /// Stable.
    code: String,
    detail: String,
}

/// Keep log lines
///
/// The body is one line, a list of lines, or NDJSON. The answer comes when the lines are durable. A bad line does not keep
/// others out; if all are bad, nothing is kept and the answer is a 422. The same service and id are kept once.
#[utoipa::path(
    post, path = "/logs", tag = "log-service", security(("bearer" = [])),
    request_body(content((NewLine = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 201, body = Written), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 413, body = ProblemBody), (status = 415, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn write_logs(
    State(app): State<App>,
    _: Allowed<CanWriteLogs>,
    headers: HeaderMap,
    Bytes(body): Bytes,
) -> Result<(StatusCode, Json<Written>)> {
    let body = Body::read(&headers, &body)?;
    let Sorted { lines, places, mut errors } = body.sort();
    app.ingest.count_rejected("http", errors.len());
    if lines.is_empty() && !errors.is_empty() {
        return Err(body.all_bad(errors));
    }
    let receipt = app.ingest.write("http", lines).await.map_err(refused)?;
    for place in receipt.refused {
        let error = FieldError::new("", "unstorable", "the database does not take this line");
        errors.push((places[place], vec![error]));
    }
    errors.sort_by_key(|(index, _)| *index);
    let rejected = errors.into_iter().map(|(index, errors)| Rejected::new(index, &errors)).collect();
    Ok((StatusCode::CREATED, Json(Written { accepted: receipt.new, duplicates: receipt.duplicates, rejected })))
}

/// What a caller is told when nothing was kept.
pub(super) fn refused(error: IngestError) -> Problem {
    match error {
        IngestError::Busy => Problem::too_many(Duration::from_secs(1)),
        IngestError::Unavailable => Problem::unavailable("log store", Duration::from_secs(5)),
    }
}

/// The parts of a body, each to be one line.
struct Body<'a> {
    parts: Vec<(usize, &'a [u8])>,
    /// One line, not a list: errors are said of the body itself.
    single: bool,
}

struct Sorted {
    lines: Vec<Line>,
    /// Where each of `lines` stood.
    places: Vec<usize>,
    errors: Vec<(usize, Vec<FieldError>)>,
}

impl<'a> Body<'a> {
    fn read(headers: &HeaderMap, body: &'a [u8]) -> Result<Self> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if NDJSON.contains(&essence.as_str()) {
            let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
            return Ok(Self { parts: lines.filter(|(_, line)| !line.is_empty()).collect(), single: false });
        }
        if essence != "application/json" {
            let detail = "send the body as `application/json` or `application/x-ndjson`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        if body.trim_ascii_start().starts_with(b"[") {
            let parts: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| {
                Problem::bad_request("malformed_json", format!("the body is not valid JSON: {error}"))
            })?;
            let parts = parts.into_iter().map(|part| part.get().as_bytes()).enumerate().collect();
            return Ok(Self { parts, single: false });
        }
        // A body that is no JSON at all is refused as everywhere.
        let syntax: std::result::Result<&RawValue, _> = serde_json::from_slice(body);
        if syntax.is_err() {
            extract::parse::<NewLine>(body)?;
        }
        Ok(Self { parts: vec![(0, body)], single: true })
    }

    fn sort(&self) -> Sorted {
        let now = Utc::now();
        let mut sorted = Sorted { lines: Vec::with_capacity(self.parts.len()), places: Vec::new(), errors: Vec::new() };
        for (index, part) in &self.parts {
            match read_line(part, now) {
                Ok(line) => {
                    sorted.lines.push(line);
                    sorted.places.push(*index);
                }
                Err(errors) => sorted.errors.push((*index, errors)),
            }
        }
        sorted
    }

    fn all_bad(&self, errors: Vec<(usize, Vec<FieldError>)>) -> Problem {
        let all = errors.into_iter().take(100).flat_map(|(index, errors)| {
            errors.into_iter().map(move |mut error| {
                if !self.single {
                    error.pointer = format!("/{index}{}", error.pointer);
                }
                error
            })
        });
        Problem::invalid(all.collect())
    }
}

fn read_line(part: &[u8], now: chrono::DateTime<Utc>) -> std::result::Result<Line, Vec<FieldError>> {
    let new: NewLine = match serde_json::from_slice(part) {
        Ok(new) => new,
        // The slow way, which names every bad field.
        Err(_) => extract::parse(part).map_err(|problem| match problem.errors() {
            [] => vec![FieldError::new("", "malformed_json", problem.detail())],
            errors => errors.to_vec(),
        })?,
    };
    new.accept(now).map_err(|refusals| refusals.into_iter().map(field_error).collect())
}

fn field_error(refusal: Refusal) -> FieldError {
    FieldError::new(format!("/{}", refusal.field), refusal.code, refusal.detail)
}

impl Rejected {
    fn new(index: usize, errors: &[FieldError]) -> Self {
        let code = errors.first().map_or_else(|| "invalid".to_owned(), |error| error.code.to_string());
        let details: Vec<String> = errors
            .iter()
            .map(|error| match error.pointer.trim_start_matches('/') {
                "" => error.detail.clone(),
                field => format!("{field}: {}", error.detail),
            })
            .collect();
        Self { index, code, detail: details.join("; ") }
    }
}
