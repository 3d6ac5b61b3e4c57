//! Extractors whose rejections are problems, used instead of axum's own everywhere. `Json` names every bad field at once.

use axum::{
    body::Bytes as AxumBytes,
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::{
    problem::{FieldError, Problem},
    schema,
};

/// A JSON body, in and out.
///
/// In: 415 `unsupported_media_type`, 413 `body_too_large`, 400 `malformed_json`, 422 `invalid_request` with every bad
/// field.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S, T> FromRequest<S> for Json<T>
where
    S: Send + Sync,
    T: DeserializeOwned + ToSchema + 'static,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(unsupported_media_type());
        }
        let Bytes(body) = Bytes::from_request(request, state).await?;
        parse(&body).map(Self)
    }
}

/// A JSON body that may be absent: `Option<Json<T>>` is `None` for an empty body of any media type.
impl<S, T> OptionalFromRequest<S> for Json<T>
where
    S: Send + Sync,
    T: DeserializeOwned + ToSchema + 'static,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let json = is_json(request.headers());
        let Bytes(body) = Bytes::from_request(request, state).await?;
        match (body.is_empty(), json) {
            (true, _) => Ok(None),
            (false, true) => parse(&body).map(|value| Some(Self(value))),
            (false, false) => Err(unsupported_media_type()),
        }
    }
}

fn unsupported_media_type() -> Problem {
    let detail = "send the body as `Content-Type: application/json`";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

/// Reads a JSON document as `Json` does; for bodies that come another way.
///
/// # Errors
/// 400 `malformed_json`, 422 `invalid_request` with every bad field.
pub fn parse<T: DeserializeOwned + ToSchema + 'static>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(value) => match deserializer.end() {
            Ok(()) if is_array(body) => return array_is_meant::<T>().map(|()| value),
            Ok(()) => return Ok(value),
            Err(error) => return Err(malformed(&error)),
        },
        Err(error) => error,
    };
    // What serde found first may hide a syntax error further on; and a value that no schema can be held against has none.
    let document: serde_json::Value = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    let found = FieldError::new(pointer(error.path()), "invalid", plain(error.inner()));
    let mut errors = schema::violations::<T>(&document);
    let known = |found: &FieldError| {
        errors
            .iter()
            .any(|error| error.pointer.starts_with(&found.pointer) || found.pointer.starts_with(&error.pointer))
    };
    if !known(&found) {
        errors.push(found);
    }
    Err(Problem::invalid(errors))
}

fn is_array(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"[")
}

/// serde takes the fields of an object from an array too, by position; nobody who sends one means that.
fn array_is_meant<T: ToSchema + 'static>() -> Result<(), Problem> {
    let mut errors = schema::violations::<T>(&serde_json::Value::Array(Vec::new()));
    errors.retain(|error| error.pointer.is_empty() && error.code == "wrong_type");
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}

fn malformed(error: &serde_json::Error) -> Problem {
    let detail = if error.is_eof() && error.line() <= 1 && error.column() == 0 {
        "the body is empty: send a JSON document".to_owned()
    } else {
        format!("the body is not valid JSON: {error}")
    };
    Problem::bad_request("malformed_json", detail)
}

/// The message without serde's position, which the pointer says better.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

/// A whole body of any kind; 413 `body_too_large` over the limit of `[http] body_limit_bytes`.
#[derive(Debug, Clone)]
pub struct Bytes(pub bytes::Bytes);

impl<S: Send + Sync> FromRequest<S> for Bytes {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        AxumBytes::from_request(request, state).await.map(Self).map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(failed) if failed.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is larger than this path takes")
            }
            _ => Problem::bad_request("incomplete_body", "the body ended before it was complete"),
        })
    }
}

/// Path parameters; 400 `invalid_path`.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<S, T> FromRequestParts<S> for Path<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection| Problem::bad_request("invalid_path", rejection.body_text()))
    }
}

/// Query parameters; 400 `invalid_query`. Give the type `deny_unknown_fields`, so that a misspelt filter is not ignored.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<S, T> FromRequestParts<S> for Query<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        axum::extract::Query::<T>::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection| Problem::bad_request("invalid_query", rejection.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, ToSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Robot {
        serial_number: Name,
        firmware: Firmware,
        nickname: Option<String>,
    }

    #[derive(Debug, Deserialize, ToSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Firmware {
        major: u32,
    }

    #[derive(Debug, Deserialize, ToSchema)]
    #[serde(try_from = "String")]
    #[schema(min_length = 1, max_length = 8)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Name(String);

    impl TryFrom<String> for Name {
        type Error = &'static str;

        fn try_from(text: String) -> Result<Self, Self::Error> {
            if (1..=8).contains(&text.len()) { Ok(Self(text)) } else { Err("1 to 8 characters") }
        }
    }

    fn pointers(body: &str) -> Vec<String> {
        let problem = parse::<Robot>(body.as_bytes()).expect_err("invalid");
        assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        problem.errors().iter().map(|error| error.pointer.clone()).collect()
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let mut found = pointers(r#"{"serialNumber": 7, "firmware": {"major": "x", "minor": 1}, "colour": "red"}"#);
        found.sort();
        assert_eq!(found, ["/colour", "/firmware/major", "/firmware/minor", "/serialNumber"]);
        assert_eq!(pointers("{}"), ["/firmware", "/serialNumber"]);
        assert_eq!(pointers("[]"), [""]);
        assert_eq!(pointers(r#"{"serialNumber": "much too long", "firmware": {"major": 1}}"#), ["/serialNumber"]);
    }

    #[test]
    fn a_body_that_is_no_json_is_malformed() {
        for body in ["", "{", "{\"serialNumber\": }", "{} {}", "\u{0}", &"[".repeat(10_000)] {
            let problem = parse::<Robot>(body.as_bytes()).expect_err("malformed");
            assert!(["malformed_json", "invalid_request"].contains(&problem.code()), "{body}: {problem}");
        }
        assert_eq!(parse::<Robot>(b"{").expect_err("malformed").code(), "malformed_json");
    }

    #[test]
    fn an_array_is_no_object_even_if_every_field_may_be_absent() {
        #[derive(Debug, Deserialize, ToSchema)]
        #[expect(dead_code, reason = "only its shape matters")]
        struct Patch {
            nickname: Option<String>,
        }
        assert_eq!(parse::<Patch>(b" []").expect_err("an array").code(), "invalid_request");
        assert_eq!(parse::<Patch>(b"[\"R\"]").expect_err("an array").code(), "invalid_request");
        parse::<Patch>(b"{}").expect("an object");
        parse::<Vec<String>>(b"[\"R\"]").expect("an array is meant");
    }

    #[test]
    fn a_valid_body_is_taken() {
        parse::<Robot>(br#"{"serialNumber": "R-42", "firmware": {"major": 1}}"#).expect("valid");
    }
}
