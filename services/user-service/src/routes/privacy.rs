//! `/users/{id}/privacy-export`, `/users/{id}/erase`, `/users/{id}/erasure`: what Kronos holds on a person, and how it forgets.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use kronos_common::{
    extract::{Json, Path},
    identity::Allowed,
    problem::{ProblemBody, Result},
};
use uuid::Uuid;

use super::allowed::CanManageUsers;
use crate::{
    App,
    changes::{self, Actor},
    privacy::{Erasure, PrivacyExport},
    store,
};

/// All that Kronos holds on a person, from every service, in one answer. Secrets are left out.
#[utoipa::path(
    post, path = "/users/{id}/privacy-export", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "All of it, by service", body = PrivacyExport),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:manage`, and the privileged permissions that the person holds", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 503, description = "`service_unavailable`: one of the services does not answer", body = ProblemBody),
    )
)]
pub(super) async fn export_person(
    State(app): State<App>,
    allowed: Allowed<CanManageUsers>,
    Path(id): Path<Uuid>,
) -> Result<Response> {
    let export = changes::privacy::export(&app, Actor(&allowed.caller), id).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(export)).into_response())
}

/// Removes a person, and has every service forget them; those that are away are asked until they have. The answer is the
/// receipt as it is now.
#[utoipa::path(
    post, path = "/users/{id}/erase", tag = "user-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 202, description = "Begun; `Location` is the receipt", body = Erasure),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:manage`, and the privileged permissions that the person holds", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`last_administrator`", body = ProblemBody),
    )
)]
pub(super) async fn erase_person(
    State(app): State<App>,
    allowed: Allowed<CanManageUsers>,
    Path(id): Path<Uuid>,
) -> Result<Response> {
    let erasure = changes::privacy::erase(&app, Actor(&allowed.caller), id).await?;
    let location = [(header::LOCATION, format!("/users/{id}/erasure"))];
    Ok((StatusCode::ACCEPTED, location, Json(erasure)).into_response())
}

/// The receipt of an erasure: which service has forgotten the person, when, and what.
#[utoipa::path(
    get, path = "/users/{id}/erasure", tag = "user-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The receipt", body = Erasure),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:manage`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn get_erasure(
    State(app): State<App>,
    _: Allowed<CanManageUsers>,
    Path(id): Path<Uuid>,
) -> Result<Json<Erasure>> {
    store::privacy::find(&app.pool, id).await.map(Json)
}
