//! `/scim/v2` (RFC 7644): what directories such as Entra and Okta speak. People and groups are the same as at `/users` and
//! `/groups`, under the same rights. Errors leave in SCIM's own form.

mod bulk;
mod discovery;
mod me;
mod resources;
mod search;
mod wire;

use axum::{extract::DefaultBodyLimit, middleware, routing::any};
use kronos_common::problem::Problem;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

/// The largest body, in bytes; of a person it is a little of that.
const LARGEST_BODY: usize = 1 << 20;

/// All of them.
pub(super) fn all() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(discovery::service_provider_config))
        .routes(routes!(discovery::resource_types))
        .routes(routes!(discovery::resource_type))
        .routes(routes!(discovery::schemas))
        .routes(routes!(discovery::schema))
        .routes(routes!(search::search_all))
        .routes(routes!(search::search))
        .routes(routes!(bulk::bulk))
        .routes(routes!(me::get_me, me::replace_me, me::patch_me, me::delete_me))
        .routes(routes!(search::list, resources::create))
        .routes(routes!(resources::get, resources::replace, resources::patch, resources::delete))
        .route("/scim/v2", any(async || Problem::not_found("path")))
        .route("/scim/v2/{resources}/{id}/{*path}", any(async || Problem::not_found("path")))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn(wire::speak))
}
