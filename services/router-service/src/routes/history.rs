//! `/routes/history` and `/routes/rollback`: who changed what, and back in one call.

use axum::extract::State;
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    CanReadRoutes, CanWriteRoutes, actor,
    refusals::{ToMakers, ToReaders},
    take_over,
};
use crate::{
    App,
    store::history::{Changed, Kind, Step},
};

/// One version of the whole, and what led to it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub version: i64,
    pub changed_at: DateTime<Utc>,
    /// The token's subject; absent: the gateway itself, at its start.
    pub subject: Option<String>,
    pub client_id: Option<String>,
    pub changes: Vec<Difference>,
}

/// What became of one route, upstream or quota.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    pub kind: Kind,
    pub id: Uuid,
    pub name: String,
    pub did: Did,
    /// What differs, field by field.
    pub fields: Vec<Field>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Did {
    Create,
    Replace,
    Delete,
}

/// A field before and after; `null`: it was not there, or is gone.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    pub pointer: String,
    pub before: Value,
    pub after: Value,
}

impl From<Changed> for Version {
    fn from(changed: Changed) -> Self {
        let Changed { version, changed_at, subject, client_id, changes } = changed;
        let known = |text: String| (!text.is_empty()).then_some(text);
        let changes = changes.0.into_iter().map(Difference::from).collect();
        Self { version, changed_at, subject: known(subject), client_id: known(client_id), changes }
    }
}

impl From<Step> for Difference {
    fn from(Step { kind, id, before, after }: Step) -> Self {
        let did = match (before.is_null(), after.is_null()) {
            (true, _) => Did::Create,
            (false, true) => Did::Delete,
            (false, false) => Did::Replace,
        };
        let named = if after.is_null() { &before } else { &after };
        let name = named["name"].as_str().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        compare("", &before, &after, &mut fields);
        Self { kind, id, name, did, fields }
    }
}

/// Adds every leaf that differs; lists are leaves.
fn compare(pointer: &str, before: &Value, after: &Value, fields: &mut Vec<Field>) {
    let empty = serde_json::Map::new();
    let members = |value: &Value| matches!(value, Value::Object(_) | Value::Null);
    if before == after {
        return;
    }
    if !members(before) || !members(after) {
        fields.push(Field { pointer: pointer.to_owned(), before: before.clone(), after: after.clone() });
        return;
    }
    let (old, new) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    let mut names: Vec<&String> = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))).collect();
    names.sort();
    for name in names {
        let (before, after) = (old.get(name).unwrap_or(&Value::Null), new.get(name).unwrap_or(&Value::Null));
        compare(&format!("{pointer}/{name}"), before, after, fields);
    }
}

/// Where to go back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollback {
    /// Everything that changed after this version is undone.
    #[schema(minimum = 0)]
    pub version: i64,
}

/// The version that a rollback made.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolledBack {
    pub version: i64,
}

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(history)).routes(routes!(roll_back))
}

/// The last thousand changes of routes, upstreams and quotas, the latest first: who, when, and what differs.
#[utoipa::path(
    get, path = "/routes/history", tag = "router-service", security(("bearer" = [])), params(PageQuery),
    responses((status = 200, body = Page<Version>), ToReaders)
)]
async fn history(
    State(app): State<App>,
    _: Allowed<CanReadRoutes>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Version>>> {
    let before: i64 = query.cursor.map(|cursor| cursor.decode()).transpose()?.unwrap_or(i64::MAX);
    let rows = app.store.history(before, query.limit.fetch()).await?;
    let page = Page::new(rows, query.limit, |row| row.version);
    Ok(Json(page.map(Version::from)))
}

/// Undoes every change after a version, as one change: live here when this is answered, and elsewhere as any other.
#[utoipa::path(
    post, path = "/routes/rollback", tag = "router-service", security(("bearer" = [])), request_body = Rollback,
    responses(
        (status = 200, body = RolledBack),
        ToMakers,
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn roll_back(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Json(Rollback { version }): Json<Rollback>,
) -> Result<Json<RolledBack>> {
    let mut change = app.store.change(actor(&allowed)).await?;
    change.roll_back(version).await?;
    let snapshot = change.commit(None).await?;
    let version = snapshot.version;
    take_over(&app, snapshot).await?;
    Ok(Json(RolledBack { version }))
}
