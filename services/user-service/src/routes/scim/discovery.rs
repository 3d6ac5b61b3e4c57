//! What this server can (RFC 7644 section 4); anybody may know.

use axum::extract::State;
use kronos_common::{
    extract::Path,
    problem::{Problem, Result},
};
use serde_json::{Value, json};

use super::{LARGEST_BODY, bulk::MOST_OPERATIONS, search::MOST_RESULTS, wire::Scim};
use crate::{
    App,
    scim::schema::{GROUPS, SCHEMAS, USERS},
};

pub(super) const LIST: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";

/// What of SCIM this server can.
#[utoipa::path(
    get, path = "/scim/v2/ServiceProviderConfig", tag = "user-service",
    responses((status = 200, description = "RFC 7643 section 5", body = Value, content_type = "application/scim+json"))
)]
pub(super) async fn service_provider_config(State(app): State<App>) -> Scim<Value> {
    let yes = json!({"supported": true});
    Scim(json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": yes, "changePassword": yes, "sort": yes, "etag": yes,
        "bulk": {"supported": true, "maxOperations": MOST_OPERATIONS, "maxPayloadSize": LARGEST_BODY},
        "filter": {"supported": true, "maxResults": MOST_RESULTS},
        "authenticationSchemes": [{
            "type": "oauthbearertoken", "name": "OAuth Bearer Token", "primary": true,
            "description": "A token of an OAuth client (client credentials), or an API key",
            "specUri": "https://www.rfc-editor.org/info/rfc6750",
        }],
        "meta": {
            "resourceType": "ServiceProviderConfig",
            "location": format!("{}/ServiceProviderConfig", app.scim_base),
        },
    }))
}

/// The kinds of resources.
#[utoipa::path(
    get, path = "/scim/v2/ResourceTypes", tag = "user-service",
    responses((status = 200, description = "RFC 7643 section 6", body = Value, content_type = "application/scim+json"))
)]
pub(super) async fn resource_types(State(app): State<App>) -> Scim<Value> {
    Scim(list(&[&USERS, &GROUPS].map(|resource| resource.to_json(&app.scim_base))))
}

/// A kind of resource.
#[utoipa::path(
    get, path = "/scim/v2/ResourceTypes/{name}", tag = "user-service", params(("name" = String, Path)),
    responses(
        (status = 200, description = "RFC 7643 section 6", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "There is none of that name", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn resource_type(State(app): State<App>, Path(name): Path<String>) -> Result<Scim<Value>> {
    let found = [&USERS, &GROUPS].into_iter().find(|resource| resource.name == name);
    found.map(|resource| Scim(resource.to_json(&app.scim_base))).ok_or_else(|| Problem::not_found("resource type"))
}

/// The schemas.
#[utoipa::path(
    get, path = "/scim/v2/Schemas", tag = "user-service",
    responses((status = 200, description = "RFC 7643 section 7", body = Value, content_type = "application/scim+json"))
)]
pub(super) async fn schemas(State(app): State<App>) -> Scim<Value> {
    Scim(list(&SCHEMAS.map(|schema| schema.to_json(&app.scim_base))))
}

/// A schema.
#[utoipa::path(
    get, path = "/scim/v2/Schemas/{urn}", tag = "user-service", params(("urn" = String, Path)),
    responses(
        (status = 200, description = "RFC 7643 section 7", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "There is none of that URN", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn schema(State(app): State<App>, Path(urn): Path<String>) -> Result<Scim<Value>> {
    let found = SCHEMAS.into_iter().find(|schema| schema.urn.eq_ignore_ascii_case(&urn));
    found.map(|schema| Scim(schema.to_json(&app.scim_base))).ok_or_else(|| Problem::not_found("schema"))
}

fn list(resources: &[Value]) -> Value {
    let count = resources.len();
    json!({"schemas": [LIST], "totalResults": count, "startIndex": 1, "itemsPerPage": count, "Resources": resources})
}
