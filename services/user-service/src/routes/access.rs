//! Questions about rights: what may this person do, and may they do this, and why.

use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::{Allowed, Caller},
    page::{Cursor, Limit, Page},
    problem::{Problem, ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{KRONOS_EPOCH, allowed::CanReadGrants};
use crate::{
    App,
    rights::{self, Decision, GrantPath, Grants, Resource},
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
    /// The `Kronos-Epoch` of a change that the answer must know of.
    #[serde(rename = "minEpoch")]
    #[param(rename = "minEpoch", minimum = 1)]
    min_epoch: Option<i64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EffectiveQuery {
    /// How many grants.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// The `Kronos-Epoch` of a change that the answer must know of.
    #[serde(rename = "minEpoch")]
    #[param(rename = "minEpoch", minimum = 1)]
    min_epoch: Option<i64>,
}

/// The position of a grant in the list.
type GrantPosition = (String, Option<String>, Option<String>, Vec<String>, Option<DateTime<Utc>>);

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
    // What tokens are made of is never a remembered answer.
    let found = app.held.of_all(&app.pool, &[id]).await?;
    let held = found.first().ok_or_else(store::users::no_user)?;
    Ok(Json(rights::grants(&held.person, &held.holdings, Utc::now())))
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
    Query(AccessQuery { permission, resource, min_epoch }): Query<AccessQuery>,
) -> Result<Json<Decision>> {
    let held = app.held.of(id, min_epoch).await?;
    let (resource, now) = (resource.as_ref().map(Resource::as_str), Utc::now());
    let mut decision = rights::judge(&held.person, &held.holdings, &permission, resource, now);
    if !decision.allowed && !held.person.disabled {
        let ended = app.held.ended(&held).await?;
        if !ended.is_empty() {
            let all = [held.holdings.as_slice(), ended].concat();
            decision = rights::judge(&held.person, &all, &permission, resource, now);
        }
        let granting = app.held.roles_granting(&app.pool, &permission).await?;
        decision.why.push(match granting.as_slice() {
            [] => format!("no role grants {}", permission.as_str()),
            roles => format!("roles that grant it: {}", roles.join(", ")),
        });
        if let Some(missing) = &mut decision.missing {
            missing.roles.clone_from(&granting);
        }
    }
    Ok(Json(decision))
}

/// Lists all that a person may do now, each with the way that grants it: the group if it is one's, the assigned role, and the
/// roles between it and the one that grants.
#[utoipa::path(
    get, path = "/users/{id}/permissions", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), EffectiveQuery),
    responses(
        (status = 200, description = "A page, by permission; `Kronos-Epoch` says of when", body = Page<GrantPath>),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `grants:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn list_effective(
    State(app): State<App>,
    _: Allowed<CanReadGrants>,
    Path(id): Path<Uuid>,
    Query(query): Query<EffectiveQuery>,
) -> Result<Response> {
    let after = query.cursor.map(|cursor| cursor.decode::<GrantPosition>()).transpose()?;
    let held = app.held.of(id, query.min_epoch).await?;
    let mut grants = rights::effective(&held.person, &held.holdings, Utc::now());
    if let Some((permission, resource, group, path, end)) = &after {
        let after = (permission.as_str(), resource.as_deref(), group.as_deref(), path.as_slice(), *end);
        grants.retain(|grant| grant.order() > after);
    }
    grants.truncate(query.limit.get() + 1);
    let page = Page::new(grants, query.limit, |last| {
        let GrantPath { path, permission, resource, expires_at, group } = last.clone();
        (permission, resource, group, path, expires_at)
    });
    Ok(([(KRONOS_EPOCH, held.person.epoch.to_string())], Json(page)).into_response())
}
