//! SCIM on the wire: its media type, and problems in its own form (RFC 7644 section 3.12).

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use kronos_common::problem::{self, Problem, ProblemBody};
use serde::Serialize;
use serde_json::{Value, json};

use crate::scim::Document;

const MEDIA_TYPE: &str = "application/scim+json";
const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
const LARGEST_PROBLEM: usize = 1 << 20;

/// An answer of SCIM's media type.
pub(super) struct Scim<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Scim<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.0).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        response
    }
}

/// Turns problems into SCIM's errors; their headers stay.
pub(super) async fn speak(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != problem::CONTENT_TYPE) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let body = to_bytes(body, LARGEST_PROBLEM).await.unwrap_or_default();
    let Ok(problem) = serde_json::from_slice::<ProblemBody>(&body) else {
        return Response::from_parts(head, Body::from(body));
    };
    let error = error(&problem);
    head.status = status(head.status);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(error.to_string()))
}

/// SCIM's error of a problem, as it stands in an answer to `/Bulk` too.
pub(super) fn of_problem(problem: &Problem) -> (StatusCode, Value) {
    (status(problem.status()), error(&problem.body()))
}

fn error(problem: &ProblemBody) -> Value {
    let http = StatusCode::from_u16(problem.status).map_or(problem.status, |code| status(code).as_u16());
    let mut detail = problem.detail.clone();
    if problem.errors.len() > 1 {
        let each = problem.errors.iter().map(|error| format!("{}: {}", error.pointer, error.detail));
        detail = each.collect::<Vec<_>>().join("; ");
    }
    // RFC 7644 has the status as a text.
    let mut error = json!({"schemas": [ERROR], "status": http.to_string(), "detail": detail});
    if let Some(kind) = scim_type(&problem.code) {
        error["scimType"] = kind.into();
    }
    error
}

/// SCIM knows no 422.
fn status(status: StatusCode) -> StatusCode {
    if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status }
}

fn scim_type(code: &str) -> Option<&'static str> {
    Some(match code {
        "invalid_filter" => "invalidFilter",
        "invalid_path" => "invalidPath",
        "invalid_syntax" | "malformed_json" => "invalidSyntax",
        "invalid_value" | "invalid_request" | "invalid_query" => "invalidValue",
        "mutability" => "mutability",
        "no_target" => "noTarget",
        "username_taken" | "email_taken" | "group_exists" => "uniqueness",
        _ => return None,
    })
}

/// A resource's entity tag, and where it is, as headers say it.
pub(super) fn headers(document: &Document) -> Option<(HeaderValue, HeaderValue)> {
    let meta = document.get("meta")?;
    let header = |name: &str| HeaderValue::from_str(meta[name].as_str()?).ok();
    Some((header("version")?, header("location")?))
}
