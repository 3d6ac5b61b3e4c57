//! `/cache/{namespace}/{key}`: put, get, delete.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kronos_common::{
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::{Bytes, Path, Query},
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{CanReadCache, CanWriteCache};
use crate::{
    App,
    entry::{Key, LONGEST_MEDIA_TYPE, Namespace, Tags},
    store::{Expect, NewEntry, Read, StoredEntry, Written},
};

const CACHE_TAGS: HeaderName = HeaderName::from_static("cache-tags");
const ANY_BYTES: &str = "application/octet-stream";
/// A cached page must not become a page of Kronos: nothing in it may run or load.
const HARMLESS: &str = "default-src 'none'; sandbox";

/// The query of a PUT.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutQuery {
    /// How long the value lives, in seconds; without it, the configured default.
    #[param(minimum = 1)]
    ttl: Option<u64>,
}

/// Writes a value: any bytes, of any media type. It replaces an older one with its tags and its life.
#[utoipa::path(
    put,
    path = "/cache/{namespace}/{key}",
    tag = "cache-service",
    security(("bearer" = [])),
    params(
        ("namespace" = String, Path, description = "1 to 64 of a-z, 0-9, '.', '_', '-'"),
        ("key" = String, Path, description = "1 to 512 bytes, percent-encoded"),
        PutQuery,
        ("Cache-Tags" = Option<String>, Header, description = "Up to 16 tags, with commas between"),
        ("If-Match" = Option<String>, Header, description = "Write only over this version"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: write only if there is no value"),
    ),
    request_body(content_type = "application/octet-stream", description = "The value, at most 1 MiB by default"),
    responses(
        (status = 201, description = "Written; there was no value"),
        (status = 204, description = "Written over an older value"),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_tags`, `invalid_media_type`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Without `cache:write`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "`precondition_failed`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
#[expect(clippy::too_many_arguments, reason = "each part of the request is an extractor")]
pub(super) async fn put_entry(
    _: Allowed<CanWriteCache>,
    State(app): State<App>,
    Path((namespace, key)): Path<(Namespace, Key)>,
    Query(query): Query<PutQuery>,
    if_match: IfMatch,
    if_none_match: IfNoneMatch,
    headers: HeaderMap,
    Bytes(value): Bytes,
) -> Result<(StatusCode, ETag, ())> {
    let life = app.lifetimes.choose(query.ttl);
    let life = life.map_err(|error| Problem::bad_request("invalid_query", error.to_string()))?;
    let (tags, media_type) = (read_tags(&headers)?, read_media_type(&headers)?);
    let expect = expectation(&app, &namespace, &key, &if_match, &if_none_match).await?;
    let etag = ETag::of_bytes(&value);
    let entry = NewEntry { value: &value, media_type, etag: &etag, tags: &tags, life };
    match app.store.put(&namespace, &key, &entry, &expect).await? {
        Written::Created => Ok((StatusCode::CREATED, etag, ())),
        Written::Replaced => Ok((StatusCode::NO_CONTENT, etag, ())),
        Written::Refused => Err(Problem::precondition_failed()),
    }
}

/// Reads a value, as it was written. `HEAD` answers the same without the bytes.
#[utoipa::path(
    get,
    path = "/cache/{namespace}/{key}",
    tag = "cache-service",
    security(("bearer" = [])),
    params(
        ("namespace" = String, Path, description = "1 to 64 of a-z, 0-9, '.', '_', '-'"),
        ("key" = String, Path, description = "1 to 512 bytes, percent-encoded"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of the value that the caller has"),
    ),
    responses(
        (status = 200, description = "The value, with its Content-Type, ETag, Cache-Tags, Age and Cache-Control: max-age (its whole life)", content_type = "application/octet-stream"),
        (status = 304, description = "The caller has it already"),
        (status = 400, description = "`invalid_path`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Without `cache:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`: never written, expired, deleted or invalidated", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_entry(
    _: Allowed<CanReadCache>,
    State(app): State<App>,
    Path((namespace, key)): Path<(Namespace, Key)>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    let read = app.store.get(&namespace, &key).await?;
    app.metrics.reads.with_label_values(&[read.outcome()]).inc();
    let Read::Hit(entry) = read else {
        return Err(Problem::not_found("value"));
    };
    let headers = describe(&entry)?;
    let answer = match if_none_match.not_modified(&entry.etag) {
        Some(not_modified) => (headers, not_modified).into_response(),
        None => (headers, entry.value).into_response(),
    };
    Ok(answer)
}

/// Deletes a value; deleting none is no error.
#[utoipa::path(
    delete,
    path = "/cache/{namespace}/{key}",
    tag = "cache-service",
    security(("bearer" = [])),
    params(
        ("namespace" = String, Path, description = "1 to 64 of a-z, 0-9, '.', '_', '-'"),
        ("key" = String, Path, description = "1 to 512 bytes, percent-encoded"),
        ("If-Match" = Option<String>, Header, description = "Delete only this version"),
    ),
    responses(
        (status = 204, description = "There is no such value any more"),
        (status = 400, description = "`invalid_path`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Without `cache:write`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "`precondition_failed`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete_entry(
    _: Allowed<CanWriteCache>,
    State(app): State<App>,
    Path((namespace, key)): Path<(Namespace, Key)>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let expect = match_expectation(&app, &namespace, &key, &if_match).await?;
    if app.store.delete(&namespace, &key, &expect).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::precondition_failed())
    }
}

/// What must still be so when the write happens, after the conditions were held against what is there now.
async fn expectation(
    app: &App,
    namespace: &Namespace,
    key: &Key,
    if_match: &IfMatch,
    if_none_match: &IfNoneMatch,
) -> Result<Expect> {
    if !if_none_match.is_present() {
        return match_expectation(app, namespace, key, if_match).await;
    }
    match app.store.etag(namespace, key).await? {
        None if if_match.is_present() => Err(Problem::precondition_failed()),
        None => Ok(Expect::Nothing),
        Some(current) if if_none_match.not_modified(&current).is_some() => Err(Problem::precondition_failed()),
        Some(current) => if_match.check(&current).map(|()| Expect::Version(current)),
    }
}

async fn match_expectation(app: &App, namespace: &Namespace, key: &Key, if_match: &IfMatch) -> Result<Expect> {
    if !if_match.is_present() {
        return Ok(Expect::Anything);
    }
    let current = app.store.etag(namespace, key).await?;
    let current = current.ok_or_else(Problem::precondition_failed)?;
    if_match.check(&current).map(|()| Expect::Version(current))
}

fn read_tags(headers: &HeaderMap) -> Result<Tags> {
    let invalid = |detail: String| Problem::bad_request("invalid_tags", format!("Cache-Tags: {detail}"));
    let values: Vec<&str> = headers
        .get_all(CACHE_TAGS)
        .iter()
        .map(HeaderValue::to_str)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| invalid("not plain text".to_owned()))?;
    Tags::parse(values).map_err(|error| invalid(error.to_string()))
}

fn read_media_type(headers: &HeaderMap) -> Result<&str> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(ANY_BYTES);
    };
    let text = value.to_str().ok().filter(|text| text.len() <= LONGEST_MEDIA_TYPE);
    text.ok_or_else(|| Problem::bad_request("invalid_media_type", "Content-Type: too long, or not plain text"))
}

fn describe(entry: &StoredEntry) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| {
        let value = HeaderValue::from_str(value).map_err(Problem::internal)?;
        headers.insert(name, value);
        Ok::<_, Problem>(())
    };
    set(header::CONTENT_TYPE, &entry.media_type)?;
    set(header::ETAG, entry.etag.as_str())?;
    set(header::AGE, &entry.age.as_secs().to_string())?;
    set(header::CACHE_CONTROL, &format!("private, max-age={}", entry.life.as_secs()))?;
    set(header::CONTENT_SECURITY_POLICY, HARMLESS)?;
    if !entry.tags.is_empty() {
        set(CACHE_TAGS, &entry.tags)?;
    }
    Ok(headers)
}
