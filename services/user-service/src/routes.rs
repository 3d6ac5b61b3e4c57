//! The routes, by resource.

mod access;
mod assignments;
mod roles;
mod users;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

/// The epoch from which on a change of rights holds; who has seen a token of this epoch sees the change.
const KRONOS_EPOCH: axum::http::HeaderName = axum::http::HeaderName::from_static("kronos-epoch");

/// All of them.
pub(crate) fn all() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(users::list_users, users::create_user))
        .routes(routes!(users::get_user, users::update_user, users::delete_user))
        .routes(routes!(assignments::list_assignments))
        .routes(routes!(assignments::put_assignment, assignments::delete_assignment))
        .routes(routes!(access::get_grants))
        .routes(routes!(access::check_access))
        .routes(routes!(roles::list_roles, roles::create_role))
        .routes(routes!(roles::get_role, roles::replace_role, roles::delete_role))
}

/// The permissions that handlers ask for.
mod permissions {
    use kronos_common::identity::Permission;

    pub(super) struct CanReadUsers;

    impl Permission for CanReadUsers {
        const NAME: &'static str = "users:read";
    }

    pub(super) struct CanWriteUsers;

    impl Permission for CanWriteUsers {
        const NAME: &'static str = "users:write";
    }

    pub(super) struct CanReadRoles;

    impl Permission for CanReadRoles {
        const NAME: &'static str = "roles:read";
    }

    pub(super) struct CanWriteRoles;

    impl Permission for CanWriteRoles {
        const NAME: &'static str = "roles:write";
    }

    pub(super) struct CanReadGrants;

    impl Permission for CanReadGrants {
        const NAME: &'static str = "grants:read";
    }
}
