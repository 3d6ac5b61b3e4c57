//! `/users/{id}/history`.

use axum::extract::State;
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Cursor, Limit, Page},
    problem::{ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::allowed::CanManageUsers;
use crate::{
    App,
    store::{self, history::HistoryEntry},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// How many entries.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// Lists what happened to a person, the newest first: who changed what, before and after. It is gone with the person.
#[utoipa::path(
    get, path = "/users/{id}/history", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), HistoryQuery),
    responses(
        (status = 200, description = "A page", body = Page<HistoryEntry>),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:manage`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn list_history(
    State(app): State<App>,
    _: Allowed<CanManageUsers>,
    Path(id): Path<Uuid>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Page<HistoryEntry>>> {
    let before = query.cursor.map(|cursor| cursor.decode::<i64>()).transpose()?;
    store::users::find(&app.pool, id).await?;
    let entries = store::history::list(&app.pool, id, before, query.limit.fetch()).await?;
    Ok(Json(Page::new(entries, query.limit, |last| last.sequence)))
}
