//! The only error that leaves a service: a problem document (RFC 9457). A 4xx says what to change, a 5xx says nothing of
//! the inside: its cause is logged here, once.

use std::{borrow::Cow, fmt, time::Duration};

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{postgres, trace};

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// What a handler returns.
pub type Result<T> = std::result::Result<T, Problem>;

/// A problem on the wire.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemBody {
    /// A URN made of the code.
    #[serde(rename = "type")]
    pub type_: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened and what to do.
    pub detail: String,
    /// Stable, for programs.
    pub code: String,
    /// The trace in which it happened, for support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Every bad field of the input, at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One bad field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldError {
    /// JSON pointer (RFC 6901) to the field; empty for the whole body.
    pub pointer: String,
    /// Stable, for programs.
    pub code: Cow<'static, str>,
    /// What is wrong with it.
    pub detail: String,
}

impl FieldError {
    /// A bad field.
    pub fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code: code.into(), detail: detail.into() }
    }
}

/// A problem that becomes an answer.
#[derive(Debug)]
pub struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    errors: Vec<FieldError>,
    headers: HeaderMap,
    cause: Option<anyhow::Error>,
}

impl Problem {
    /// Any problem. `code` is stable and in `snake_case`; `detail` is a sentence without a final period.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            status,
            code: code.into(),
            detail: detail.into(),
            errors: Vec::new(),
            headers: HeaderMap::new(),
            cause: None,
        }))
    }

    /// 400.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401 with `WWW-Authenticate: Bearer` (RFC 6750 section 3).
    pub fn unauthorized(code: &'static str, detail: impl Into<String>) -> Self {
        let challenge = if code == "token_missing" { "Bearer" } else { "Bearer error=\"invalid_token\"" };
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    /// 403 `permission_denied`.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_denied", detail)
    }

    /// 404 `not_found`; `what` is a noun, such as `user`.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// 409.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 412 `precondition_failed`: somebody else was faster.
    pub fn precondition_failed() -> Self {
        let detail = "it changed since you read it: read it again and repeat the change with the new ETag";
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
    }

    /// 422 `invalid_request` with every bad field.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.pointer.is_empty() => one.detail.clone(),
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} fields are not valid, see errors", many.len()),
        };
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail);
        problem.0.errors = errors;
        problem
    }

    /// 422 `invalid_request` with one bad field.
    pub fn field(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(pointer, code, detail)])
    }

    /// 429 `rate_limited`.
    pub fn too_many(retry_after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many requests: wait, then try again")
            .with_retry_after(retry_after)
    }

    /// 503 `store_unavailable`; `what` is the part that is away, in the reader's words.
    pub fn unavailable(what: &'static str, retry_after: Duration) -> Self {
        let detail = format!("the {what} can't be reached now, nothing was changed: try again");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail).with_retry_after(retry_after)
    }

    /// 503 `timeout`: it was given up, and nothing was changed by what was given up.
    pub fn timeout() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "this took too long: try again, or ask for less")
            .with_retry_after(Duration::from_secs(2))
    }

    /// 500 `internal`: the cause is logged, the caller learns the trace id only.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong here, it was logged")
            .caused_by(cause)
    }

    /// Adds a cause, which is logged and never shown.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Adds `Retry-After`, in whole seconds, at least one.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The stable code.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// What happened and what to do.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The bad fields.
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// What goes over the wire.
    pub fn body(&self) -> ProblemBody {
        ProblemBody {
            type_: format!("urn:kronos:problem:{}", self.0.code),
            title: self.0.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.0.status.as_u16(),
            detail: self.0.detail.clone(),
            code: self.0.code.to_string(),
            trace_id: trace::current().map(|context| context.trace_id_text()),
            errors: self.0.errors.clone(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.status.as_u16(), self.0.code, self.0.detail)
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_ref().map(|cause| cause.as_ref() as _)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.0.cause {
            let (status, code) = (self.0.status.as_u16(), self.0.code.as_ref());
            if self.0.status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(status, code, error = format!("{cause:#}"), "request failed");
            } else {
                tracing::warn!(status, code, error = format!("{cause:#}"), "request failed");
            }
        }
        let mut response = (self.0.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.extend(self.0.headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// A database that is away or gave up a statement that ran too long is a 503, anything else that was not expected a 500.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let away = postgres::is_unavailable(&error);
        // PostgreSQL's text cannot hold U+0000, which JSON and URLs can: that is the caller's mistake.
        let code = error.as_database_error().and_then(|error| error.code()).map(Cow::into_owned);
        match code.as_deref() {
            _ if away => Self::unavailable("database", Duration::from_secs(2)).caused_by(error),
            Some("22021" | "22P05") => Self::field("", "invalid_text", "the character U+0000 is not possible here"),
            // query_canceled: `statement_timeout_ms` is over.
            Some("57014") => Self::timeout().caused_by(error),
            _ => Self::internal(error),
        }
    }
}

impl From<redis::RedisError> for Problem {
    fn from(error: redis::RedisError) -> Self {
        if error.kind() == redis::ErrorKind::UnexpectedReturnType {
            Self::internal(error)
        } else {
            Self::unavailable("cache store", Duration::from_secs(1)).caused_by(error)
        }
    }
}

impl From<deadpool_redis::PoolError> for Problem {
    fn from(error: deadpool_redis::PoolError) -> Self {
        Self::unavailable("cache store", Duration::from_secs(1)).caused_by(error)
    }
}

/// Turns the violation of a named constraint into the problem that it means.
pub trait OnConstraint<T> {
    /// `problem` if the constraint `name` refused the statement.
    ///
    /// # Errors
    /// The given problem, or what `From<sqlx::Error>` makes of any other error.
    fn on_constraint(self, name: &str, problem: Problem) -> Result<T>;
}

impl<T> OnConstraint<T> for std::result::Result<T, sqlx::Error> {
    fn on_constraint(self, name: &str, problem: Problem) -> Result<T> {
        self.map_err(|error| match &error {
            sqlx::Error::Database(database) if database.constraint() == Some(name) => problem,
            _ => error.into(),
        })
    }
}

/// A problem that another constraint already found stays; so calls can be chained.
impl<T> OnConstraint<T> for Result<T> {
    fn on_constraint(self, name: &str, problem: Problem) -> Result<T> {
        self.map_err(|found| {
            let refused = found.0.cause.as_ref().and_then(|cause| cause.downcast_ref::<sqlx::Error>());
            match refused {
                Some(sqlx::Error::Database(database)) if database.constraint() == Some(name) => problem,
                _ => found,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_problem_tells_nothing_of_its_cause() {
        let problem = Problem::internal(anyhow::anyhow!("password of the database is hunter2"));
        let body = serde_json::to_string(&problem.body()).expect("serialises");
        assert!(!body.contains("hunter2"), "{body}");
    }

    #[test]
    fn a_wait_is_rounded_up_to_a_whole_second() {
        let response = Problem::too_many(Duration::from_millis(1_200)).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
    }

    #[test]
    fn a_database_that_is_away_is_not_our_fault() {
        assert_eq!(Problem::from(sqlx::Error::PoolTimedOut).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(Problem::from(sqlx::Error::RowNotFound).status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
