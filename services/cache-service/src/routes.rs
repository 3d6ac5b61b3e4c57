//! The paths of the API.

pub mod entries;
pub mod tags;

use kronos_common::identity::Permission;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

/// What this service asks for, declared when it starts: each with what it allows.
pub(crate) const PERMISSIONS: &[(&str, &str)] = &[("cache:read", "Read the cache"), ("cache:write", "Write the cache")];

/// May read values.
#[derive(Debug)]
pub struct CanReadCache;

impl Permission for CanReadCache {
    const NAME: &'static str = "cache:read";
}

/// May write, delete and invalidate values.
#[derive(Debug)]
pub struct CanWriteCache;

impl Permission for CanWriteCache {
    const NAME: &'static str = "cache:write";
}

/// Every path.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(entries::get_entry, entries::put_entry, entries::delete_entry))
        .routes(routes!(tags::invalidate_tag))
}
