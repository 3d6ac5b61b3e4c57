//! The record of security events.

use axum::extract::State;
use kronos_common::{
    extract::{Json, Query},
    identity::Allowed,
    page::{Cursor, Limit, Page},
    problem::{ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::permissions::CanReadAudit;
use crate::{App, audit::AuditEntry, store};

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
    /// A user's or a client's id.
    subject: Option<String>,
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
    let rows = store::audit::list(&app.pool, before, query.subject.as_deref(), query.limit.fetch()).await?;
    Ok(Json(Page::new(rows, query.limit, |entry| entry.sequence)))
}
