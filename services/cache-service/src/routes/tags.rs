//! `DELETE /cache/{namespace}/tags/{tag}`.

use axum::{extract::State, http::StatusCode};
use kronos_common::{
    extract::Path,
    identity::Allowed,
    problem::{ProblemBody, Result},
};

use super::CanWriteCache;
use crate::{
    App,
    entry::{Namespace, Tag},
};

/// Invalidates every value of the namespace that was written with this tag, at once and whatever their number. Values
/// written later with the same tag are not affected.
#[utoipa::path(
    delete,
    path = "/cache/{namespace}/tags/{tag}",
    tag = "cache-service",
    security(("bearer" = [])),
    params(
        ("namespace" = String, Path, description = "1 to 64 of a-z, 0-9, '.', '_', '-'"),
        ("tag" = String, Path, description = "1 to 128 of a-z, A-Z, 0-9, '.', '_', '-', ':', '/', '@'"),
    ),
    responses(
        (status = 204, description = "No value with this tag is served any more"),
        (status = 400, description = "`invalid_path`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Without `cache:write`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn invalidate_tag(
    _: Allowed<CanWriteCache>,
    State(app): State<App>,
    Path((namespace, tag)): Path<(Namespace, Tag)>,
) -> Result<StatusCode> {
    app.store.invalidate(&namespace, &tag).await?;
    Ok(StatusCode::NO_CONTENT)
}
