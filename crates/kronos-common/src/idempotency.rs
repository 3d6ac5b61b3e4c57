//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header) for unsafe requests: the first one is carried out, its
//! repetitions get the same answer. A middleware around a service's routes; the handlers know nothing of it.
//!
//! A key belongs to one caller (client and subject of a verified token), method and path. Requests without a valid token
//! pass untouched, and so do answers that say `Cache-Control: no-store`: secrets are never kept here. Answers that say
//! nothing about the request itself (5xx, 401, 403, 408, 429) are not kept either: the next attempt is a new one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRequest as _, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{FromFnLayer, Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    extract::Bytes,
    identity::Verifier,
    problem::{Problem, Result},
    trace,
};

/// The request header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `true` on an answer that was kept from the first request.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Longest key, in characters.
const LONGEST_KEY: usize = 255;
/// Largest answer that is kept, in bytes; a larger one is given, and the next attempt is a new one.
const LARGEST_ANSWER: u64 = 1 << 20;
/// A claim whose instance has died is free after this, in seconds: longer than any request may take.
const CLAIM_SECONDS: f64 = 60.0;
/// How long an answer is kept, in seconds.
const KEEP_SECONDS: f64 = 24.0 * 3600.0;
/// How often expired rows are deleted, at most.
const CLEAN_EVERY: Duration = Duration::from_secs(300);
/// Headers of an answer that are kept with it.
const KEPT_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];

/// What [`layer`] returns, named so that it can be stored.
pub type Layer =
    FromFnLayer<fn(State<Store>, Request, Next) -> BoxFuture<'static, Response>, Store, (State<Store>, Request)>;

/// The middleware. `pool` is the service's own; put it around the routes with `router.layer(…)`.
pub fn layer(pool: PgPool, verifier: Verifier) -> Layer {
    let store = Store { pool, verifier, cleaned: Arc::new(Mutex::new(None)) };
    from_fn_with_state(store, |State(store), request, next| {
        Box::pin(async move { store.serve(request, next).await.unwrap_or_else(Problem::into_response) })
    })
}

/// Where keys and answers are kept; only [`layer`] makes one.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    verifier: Verifier,
    cleaned: Arc<Mutex<Option<Instant>>>,
}

/// One request's right to be carried out.
struct Claim {
    scope: Vec<u8>,
    key: String,
    id: Uuid,
}

enum Found {
    /// Nobody was here: go on.
    Free(Claim),
    Kept(Answer),
}

#[derive(sqlx::FromRow)]
struct Row {
    fingerprint: Vec<u8>,
    status: Option<i16>,
    headers: Option<sqlx::types::Json<Vec<(String, String)>>>,
    body: Option<Vec<u8>>,
}

struct Answer {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Store {
    async fn serve(&self, request: Request, next: Next) -> Result<Response> {
        let unsafe_method = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(request.method());
        let Some(key) = request.headers().get(IDEMPOTENCY_KEY).filter(|_| unsafe_method) else {
            return Ok(next.run(request).await);
        };
        let key = valid_key(key)?;
        let Some(caller) = self.caller(request.headers()).await else {
            return Ok(next.run(request).await);
        };
        let (parts, body) = request.into_parts();
        let scope = digest(&[&caller.0, &caller.1, parts.method.as_str(), parts.uri.path()].map(str::as_bytes));
        // The limit of the body travels in the extensions.
        let mut limited = Request::new(body);
        *limited.extensions_mut() = parts.extensions.clone();
        let Bytes(body) = Bytes::from_request(limited, &()).await?;
        let if_match = parts.headers.get(header::IF_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
        let fingerprint = digest(&[parts.uri.query().unwrap_or_default().as_bytes(), if_match, &body]);

        let claim = match self.claim(scope, key, &fingerprint).await? {
            Found::Kept(answer) => return answer.replay(),
            Found::Free(claim) => claim,
        };
        self.clean_now_and_then();
        let request = Request::from_parts(parts, Body::from(body));
        // In a task of its own, so that a caller who hangs up finds the answer when it asks again.
        let store = self.clone();
        let carried_out = async move {
            let response = next.run(request).await;
            store.finish(claim, response).await
        };
        let carried_out = match trace::current() {
            Some(context) => tokio::spawn(trace::scope(context, carried_out).in_current_span()),
            None => tokio::spawn(carried_out.in_current_span()),
        };
        match carried_out.await {
            Ok(response) => Ok(response),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(Problem::internal(error)),
        }
    }

    /// Client and subject; none without a valid token, which the handler then refuses in its own words.
    async fn caller(&self, headers: &HeaderMap) -> Option<(String, String)> {
        let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = authorization.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let claims = self.verifier.verify(token.trim()).await.ok()?;
        Some((claims.client_id.clone(), claims.sub.clone()))
    }

    async fn claim(&self, scope: Vec<u8>, key: String, fingerprint: &[u8]) -> Result<Found> {
        let id = Uuid::now_v7();
        let claimed = sqlx::query(
            "insert into idempotency_keys as kept (scope, key, fingerprint, claim, claimed_until, expires_at)
             values ($1, $2, $3, $4, now() + make_interval(secs => $5), now() + make_interval(secs => $6))
             on conflict on constraint idempotency_keys_pkey do update
             set fingerprint = excluded.fingerprint, claim = excluded.claim, claimed_until = excluded.claimed_until,
                 expires_at = excluded.expires_at, status = null, headers = null, body = null
             where kept.expires_at < now()
                or (kept.status is null and kept.claimed_until < now() and kept.fingerprint = excluded.fingerprint)",
        )
        .bind(&scope)
        .bind(&key)
        .bind(fingerprint)
        .bind(id)
        .bind(CLAIM_SECONDS)
        .bind(KEEP_SECONDS)
        .execute(&self.pool)
        .await?
        .rows_affected();
        if claimed == 1 {
            return Ok(Found::Free(Claim { scope, key, id }));
        }
        let row = sqlx::query_as::<_, Row>(
            "select fingerprint, status, headers, body from idempotency_keys where scope = $1 and key = $2",
        )
        .bind(&scope)
        .bind(&key)
        .fetch_optional(&self.pool)
        .await?;
        match row {
            Some(row) if row.fingerprint != fingerprint => Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "this Idempotency-Key was sent with another request: take a new key for each new request",
            )),
            Some(Row { status: Some(status), headers: Some(headers), body: Some(body), .. }) => {
                let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
                let status = status.ok_or_else(|| Problem::internal(anyhow::anyhow!("a kept answer has no status")))?;
                Ok(Found::Kept(Answer { status, headers: headers.0, body }))
            }
            // No row: the first request has just ended without an answer to keep; the caller may ask again at once.
            Some(_) | None => Err(Problem::conflict(
                "idempotency_in_progress",
                "a request with this Idempotency-Key is being carried out: ask again for its answer",
            )
            .with_retry_after(Duration::from_secs(1))),
        }
    }

    /// Keeps the answer, or frees the key if there is nothing to keep.
    async fn finish(&self, claim: Claim, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        let small = body.size_hint().upper().is_some_and(|size| size <= LARGEST_ANSWER);
        if !small || !worth_keeping(parts.status, &parts.headers) {
            self.free(&claim).await;
            return Response::from_parts(parts, body);
        }
        let bytes = match axum::body::to_bytes(body, usize::MAX).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.free(&claim).await;
                return Problem::internal(error).into_response();
            }
        };
        let headers: Vec<(&str, &str)> = KEPT_HEADERS
            .iter()
            .filter_map(|name| Some((name.as_str(), parts.headers.get(name)?.to_str().ok()?)))
            .collect();
        let kept = sqlx::query(
            "update idempotency_keys set status = $4, headers = $5, body = $6 where scope = $1 and key = $2 and claim = $3",
        )
        .bind(&claim.scope)
        .bind(&claim.key)
        .bind(claim.id)
        .bind(i16::try_from(parts.status.as_u16()).unwrap_or(i16::MAX))
        .bind(sqlx::types::Json(headers))
        .bind(bytes.as_ref())
        .execute(&self.pool)
        .await;
        if let Err(error) = kept {
            // The claim stays until it times out: better a 409 than the work done twice.
            tracing::warn!(%error, "an answer could not be kept for its idempotency key");
        }
        Response::from_parts(parts, Body::from(bytes))
    }

    async fn free(&self, claim: &Claim) {
        let freed = sqlx::query("delete from idempotency_keys where scope = $1 and key = $2 and claim = $3")
            .bind(&claim.scope)
            .bind(&claim.key)
            .bind(claim.id)
            .execute(&self.pool)
            .await;
        if let Err(error) = freed {
            tracing::warn!(%error, "an idempotency key stays claimed until it times out");
        }
    }

    /// Expired rows mean nothing and need no punctual job: whoever adds one takes the old ones away.
    fn clean_now_and_then(&self) {
        {
            let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
            if cleaned.is_some_and(|at| at.elapsed() < CLEAN_EVERY) {
                return;
            }
            *cleaned = Some(Instant::now());
        }
        let pool = self.pool.clone();
        tokio::spawn(async move {
            let cleaned = sqlx::query("delete from idempotency_keys where expires_at < now()").execute(&pool).await;
            if let Err(error) = cleaned {
                tracing::warn!(%error, "expired idempotency keys stay for now");
            }
        });
    }
}

impl Answer {
    fn replay(self) -> Result<Response> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        for (name, value) in self.headers {
            let name = HeaderName::try_from(name).map_err(Problem::internal)?;
            response.headers_mut().insert(name, HeaderValue::try_from(value).map_err(Problem::internal)?);
        }
        Ok(response)
    }
}

fn valid_key(key: &HeaderValue) -> Result<String> {
    let text = key.to_str().unwrap_or_default().trim();
    // The draft has it as a quoted string; most clients send it bare.
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || text.len() > LONGEST_KEY {
        let detail = "an Idempotency-Key is 1 to 255 visible ASCII characters";
        return Err(Problem::bad_request("invalid_idempotency_key", detail));
    }
    Ok(text.to_owned())
}

fn worth_keeping(status: StatusCode, headers: &HeaderMap) -> bool {
    let secret = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let transient =
        [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    !status.is_server_error()
        && !transient.contains(&status)
        && !secret.is_some_and(|value| value.to_ascii_lowercase().contains("no-store"))
}

/// SHA-256 of the parts with their lengths, so that no two lists of parts are the same bytes.
fn digest(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_bounded_and_may_be_quoted() {
        assert_eq!(valid_key(&HeaderValue::from_static("\"k-1\"")).expect("quoted"), "k-1");
        assert_eq!(valid_key(&HeaderValue::from_static("k-1")).expect("bare"), "k-1");
        for bad in ["", "\"\"", &"k".repeat(256)] {
            assert!(valid_key(&HeaderValue::from_str(bad).expect("visible")).is_err(), "{bad}");
        }
        assert!(valid_key(&HeaderValue::from_bytes(b"\xff").expect("opaque")).is_err());
    }

    #[test]
    fn parts_cannot_be_shifted_into_one_another() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }

    #[test]
    fn secrets_and_passing_failures_are_not_kept() {
        let mut headers = HeaderMap::new();
        assert!(worth_keeping(StatusCode::CREATED, &headers));
        assert!(worth_keeping(StatusCode::CONFLICT, &headers));
        assert!(!worth_keeping(StatusCode::SERVICE_UNAVAILABLE, &headers));
        assert!(!worth_keeping(StatusCode::TOO_MANY_REQUESTS, &headers));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, No-Store"));
        assert!(!worth_keeping(StatusCode::CREATED, &headers));
    }
}
