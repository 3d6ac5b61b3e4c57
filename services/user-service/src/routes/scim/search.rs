//! Lists: `/Users?filter=`, and the same with a body at `.search` (RFC 7644 sections 3.4.2 and 3.4.3).

use std::collections::HashMap;

use axum::extract::State;
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    problem::Result,
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    super::allowed::CanReadUsers,
    discovery::LIST,
    resources::{kind, render_groups, render_people},
    wire::Scim,
};
use crate::{
    App,
    scim::{
        Document, Fault,
        filter::{AttributePath, Filter},
        projection::Projection,
        schema::{GROUPS, Resource, USERS},
    },
    store::{self, scim::Search},
};

/// How many resources one answer has, if nothing is said, and at most.
const RESULTS: i64 = 100;
pub(super) const MOST_RESULTS: i64 = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct SearchQuery {
    /// Such as `userName eq "camille" or emails[type eq "work" and value co "@example.com"]`.
    filter: Option<String>,
    sort_by: Option<String>,
    /// `ascending` or `descending`.
    sort_order: Option<String>,
    /// The first one is 1.
    start_index: Option<i64>,
    /// At most 1,000; 100 if nothing is said.
    count: Option<i64>,
    /// Only these attributes, with commas between.
    attributes: Option<String>,
    /// All but these attributes.
    excluded_attributes: Option<String>,
}

/// The body of a search; attributes are lists there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SearchRequest {
    filter: Option<String>,
    sort_by: Option<String>,
    sort_order: Option<String>,
    start_index: Option<i64>,
    count: Option<i64>,
    attributes: Option<Vec<String>>,
    excluded_attributes: Option<Vec<String>>,
}

impl SearchQuery {
    fn read(body: Value) -> Result<Self> {
        let sent: SearchRequest = serde_json::from_value(body)
            .map_err(|error| Fault::InvalidSyntax(format!("the body is a SearchRequest: {error}")))?;
        Ok(Self {
            filter: sent.filter,
            sort_by: sent.sort_by,
            sort_order: sent.sort_order,
            start_index: sent.start_index,
            count: sent.count,
            attributes: sent.attributes.map(|names| names.join(",")),
            excluded_attributes: sent.excluded_attributes.map(|names| names.join(",")),
        })
    }

    async fn answer(self, app: &App, resources: Vec<&'static Resource>) -> Result<Scim<Value>> {
        let shown = Projection::parse(self.attributes.as_deref(), self.excluded_attributes.as_deref())?;
        let unnamed = |name: &str| Fault::InvalidPath(format!("sortBy: {name} is no attribute's name"));
        let sort_by = self.sort_by.filter(|name| !name.is_empty());
        let sort_by = sort_by.map(|name| AttributePath::parse(&name).ok_or_else(|| unnamed(&name))).transpose()?;
        let filter = self.filter.filter(|filter| !filter.trim().is_empty());
        let start = self.start_index.unwrap_or(1).max(1);
        let search = Search {
            resources,
            filter: filter.as_deref().map(Filter::parse).transpose()?,
            sort_by,
            descending: self.sort_order.is_some_and(|order| order.eq_ignore_ascii_case("descending")),
            skip: start - 1,
            count: self.count.unwrap_or(RESULTS).clamp(0, MOST_RESULTS),
        };
        let (total, found) = store::scim::search(&app.pool, &search).await?;
        let documents = documents(app, &found, &shown).await?;
        Ok(Scim(json!({
            "schemas": [LIST], "totalResults": total, "startIndex": start, "itemsPerPage": documents.len(),
            "Resources": documents,
        })))
    }
}

/// What has been found, in its order.
async fn documents(app: &App, found: &[(Uuid, String)], shown: &Projection) -> Result<Vec<Document>> {
    let ids = |resource: &Resource| -> Vec<Uuid> {
        found.iter().filter(|(_, kind)| kind == resource.name).map(|(id, _)| *id).collect()
    };
    let (people, groups) = (ids(&USERS), ids(&GROUPS));
    let mut documents: HashMap<Uuid, Document> = HashMap::with_capacity(found.len());
    if !people.is_empty() {
        let people = store::users::find_all(&app.pool, &people).await?;
        let rendered = render_people(app, &people, shown).await?;
        let shown = rendered.into_iter().map(|document| shown.of(&USERS, document));
        documents.extend(people.iter().map(|user| user.id).zip(shown));
    }
    if !groups.is_empty() {
        let groups = store::groups::find_all(&app.pool, &groups).await?;
        let rendered = render_groups(app, &groups, shown).await?;
        let shown = rendered.into_iter().map(|document| shown.of(&GROUPS, document));
        documents.extend(groups.iter().map(|group| group.id).zip(shown));
    }
    Ok(found.iter().filter_map(|(id, _)| documents.remove(id)).collect())
}

/// Lists people or groups, the newest first if no order is asked for.
#[utoipa::path(
    get, path = "/scim/v2/{resources}", tag = "user-service", security(("bearer" = [])),
    params(("resources" = String, Path, description = "`Users` or `Groups`", example = "Users"), SearchQuery),
    responses(
        (status = 200, description = "A ListResponse", body = Value, content_type = "application/scim+json"),
        (status = 400, description = "`invalidFilter`, `invalidPath`, `invalidValue`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:read`", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path(resources): Path<String>,
    Query(query): Query<SearchQuery>,
) -> Result<Scim<Value>> {
    query.answer(&app, vec![kind(&resources)?]).await
}

/// Lists people or groups; for filters that do not fit into a URL.
#[utoipa::path(
    post, path = "/scim/v2/{resources}/.search", tag = "user-service", security(("bearer" = [])),
    params(("resources" = String, Path, description = "`Users` or `Groups`", example = "Users")),
    request_body(content = Value, content_type = "application/scim+json"),
    responses(
        (status = 200, description = "A ListResponse", body = Value, content_type = "application/scim+json"),
        (status = 400, description = "`invalidSyntax`, `invalidFilter`, `invalidPath`, `invalidValue`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:read`", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn search(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path(resources): Path<String>,
    Json(body): Json<Value>,
) -> Result<Scim<Value>> {
    SearchQuery::read(body)?.answer(&app, vec![kind(&resources)?]).await
}

/// Lists people and groups.
#[utoipa::path(
    post, path = "/scim/v2/.search", tag = "user-service", security(("bearer" = [])),
    request_body(content = Value, content_type = "application/scim+json"),
    responses(
        (status = 200, description = "A ListResponse", body = Value, content_type = "application/scim+json"),
        (status = 400, description = "`invalidSyntax`, `invalidFilter`, `invalidPath`, `invalidValue`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:read`", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn search_all(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Json(body): Json<Value>,
) -> Result<Scim<Value>> {
    SearchQuery::read(body)?.answer(&app, vec![&USERS, &GROUPS]).await
}
