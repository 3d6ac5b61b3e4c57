//! The record of security events.

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures::{Stream, stream};
use kronos_common::{
    extract::{Json, Query},
    identity::Allowed,
    page::{Cursor, Limit, Page},
    problem::{Problem, ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::permissions::CanReadAudit;
use crate::{
    App,
    audit::{AuditEntry, CHECKPOINT_TYPE, Checkpoint, CheckpointLine},
    store::{self, audit::Filter},
};

/// Entries that an export reads at once.
const CHUNK: i64 = 500;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// How many entries.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Whom it happened to: a user's or a client's id.
    subject: Option<String>,
    /// Who did it.
    actor: Option<String>,
    /// What happened, such as `login-failed`.
    kind: Option<String>,
    /// From then on.
    since: Option<DateTime<Utc>>,
    /// Before then.
    until: Option<DateTime<Utc>>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// Begin after the entry of this number: where the export before ended. Absent: with the first entry.
    #[serde(default)]
    #[param(value_type = Option<i64>, minimum = 0)]
    after: u32,
}

/// Lists security events, newest first. Each entry's hash covers the entry before it.
#[utoipa::path(
    get, path = "/auth/audit", tag = "auth-service", security(("bearer" = [])), params(AuditQuery),
    responses(
        (status = 200, description = "A page", body = Page<AuditEntry>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `audit:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_audit(
    State(app): State<App>,
    _: Allowed<CanReadAudit>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Page<AuditEntry>>> {
    let before = query.cursor.map(|cursor| cursor.decode()).transpose()?;
    let filter = Filter {
        subject: query.subject.as_deref(),
        actor: query.actor.as_deref(),
        kind: query.kind.as_deref(),
        since: query.since,
        until: query.until,
    };
    let rows = store::audit::list(&app.pool, before, &filter, query.limit.fetch()).await?;
    Ok(Json(Page::new(rows, query.limit, |entry| entry.sequence)))
}

/// The signed end of the record. Keep one elsewhere from time to time: it shows later whether the record was cut off.
#[utoipa::path(
    get, path = "/auth/audit/checkpoint", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "A JWS, `typ` = `kronos-audit+jwt`", body = CheckpointLine),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `audit:read`", body = ProblemBody),
    )
)]
pub(super) async fn get_checkpoint(State(app): State<App>, _: Allowed<CanReadAudit>) -> Result<Json<CheckpointLine>> {
    let (sequence, hash) = store::audit::head(&app.pool).await?;
    Ok(Json(sign(&app, sequence, &hash)))
}

/// The whole record, oldest first, as JSON Lines: an entry a line, and a signed checkpoint as the last one.
///
/// `auth-service audit-verify` checks it without the service.
#[utoipa::path(
    get, path = "/auth/audit/export", tag = "auth-service", security(("bearer" = [])), params(ExportQuery),
    responses(
        (status = 200, description = "JSON Lines", body = AuditEntry, content_type = "application/jsonl"),
        (status = 400, description = "`invalid_query`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `audit:read`", body = ProblemBody),
    )
)]
pub(super) async fn export_audit(
    State(app): State<App>,
    _: Allowed<CanReadAudit>,
    Query(query): Query<ExportQuery>,
) -> Result<Response> {
    let (last, hash) = store::audit::head(&app.pool).await?;
    let after = i64::from(query.after);
    if after > last {
        return Err(Problem::bad_request("invalid_query", "the record does not reach that far"));
    }
    let end = sign(&app, last, &hash);
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"kronos-audit.jsonl\""),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(lines(app, after, last, end))).into_response())
}

/// Reads the entries piece by piece, so that an export of any length takes the same memory.
fn lines(app: App, after: i64, last: i64, end: CheckpointLine) -> impl Stream<Item = anyhow::Result<Bytes>> {
    stream::try_unfold(Some((after, end)), move |state| {
        let app = app.clone();
        async move {
            let Some((after, end)) = state else { return Ok(None) };
            let mut text = Vec::new();
            let entries = store::audit::between(&app.pool, after, last, CHUNK).await?;
            for entry in &entries {
                serde_json::to_writer(&mut text, entry)?;
                text.push(b'\n');
            }
            let next = match entries.last() {
                Some(entry) if entry.sequence < last => Some((entry.sequence, end)),
                _ => {
                    serde_json::to_writer(&mut text, &end)?;
                    text.push(b'\n');
                    None
                }
            };
            Ok(Some((Bytes::from(text), next)))
        }
    })
}

fn sign(app: &App, sequence: i64, hash: &[u8]) -> CheckpointLine {
    let checkpoint =
        Checkpoint { iss: app.issuer_url.clone(), iat: Utc::now().timestamp(), sequence, hash: hex::encode(hash) };
    CheckpointLine { checkpoint: app.issuer.sign_now(CHECKPOINT_TYPE, &checkpoint) }
}
