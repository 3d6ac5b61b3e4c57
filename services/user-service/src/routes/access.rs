//! Questions about rights: what may this person do, and may they do this, and why.

use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use chrono::Utc;
use kronos_common::{
    extract::{Json, Path, Query},
    identity::{Allowed, Caller},
    problem::{Problem, ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::permissions::CanReadGrants;
use crate::{
    App,
    rights::{self, Decision, Grants, Resource},
    roles::PermissionName,
    store,
};

/// Who reads grants or checks access may ask about one right. An extractor, so that it is judged before the question.
pub(super) struct MayAsk;

impl FromRequestParts<App> for MayAsk {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        if !caller.may("grants:read") {
            caller.require("access:check")?;
        }
        Ok(Self)
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AccessQuery {
    /// `resource:action`.
    #[param(value_type = String, example = "robots:use")]
    permission: PermissionName,
    /// On what; absent: everywhere.
    #[param(value_type = Option<String>, example = "robot:R-42")]
    resource: Option<Resource>,
}

/// All that a person may do now.
#[utoipa::path(
    get, path = "/users/{id}/grants", tag = "user-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "With the epoch", body = Grants),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `grants:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn get_grants(
    State(app): State<App>,
    _: Allowed<CanReadGrants>,
    Path(id): Path<Uuid>,
) -> Result<Json<Grants>> {
    let (person, holdings) = store::rights::of_person(&app.pool, id).await?.ok_or_else(store::users::no_user)?;
    Ok(Json(rights::grants(&person, &holdings, Utc::now())))
}

/// Whether a person may, and why: the path that grants it, or what is missing and what comes nearest.
#[utoipa::path(
    get, path = "/users/{id}/access", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), AccessQuery),
    responses(
        (status = 200, description = "Yes or no", body = Decision),
        (status = 400, description = "`invalid_path`, `invalid_query`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `access:check` or `grants:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn check_access(
    State(app): State<App>,
    _: MayAsk,
    Path(id): Path<Uuid>,
    Query(AccessQuery { permission, resource }): Query<AccessQuery>,
) -> Result<Json<Decision>> {
    let (person, holdings) = store::rights::of_person(&app.pool, id).await?.ok_or_else(store::users::no_user)?;
    let resource = resource.as_ref().map(Resource::as_str);
    let mut decision = rights::judge(&person, &holdings, &permission, resource, Utc::now());
    if !decision.allowed && !person.disabled {
        let granting = store::roles::granting(&app.pool, &permission.covering()).await?;
        decision.why.push(match granting.as_slice() {
            [] => format!("no role grants {}", permission.as_str()),
            roles => format!("roles that grant it: {}", roles.join(", ")),
        });
        if let Some(missing) = &mut decision.missing {
            missing.roles = granting;
        }
    }
    Ok(Json(decision))
}
