//! The routes, by resource.

mod access;
mod assignments;
mod attributes;
mod export;
mod group_assignments;
mod groups;
mod history;
mod imports;
mod permissions;
mod privacy;
mod roles;
mod scim;
mod users;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

/// The epoch from which on a change of rights holds; who has seen a token of this epoch sees the change.
const KRONOS_EPOCH: axum::http::HeaderName = axum::http::HeaderName::from_static("kronos-epoch");

/// All of them.
pub(crate) fn all() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(users::list_users, users::create_user))
        .routes(routes!(attributes::get_schema, attributes::put_schema))
        .routes(routes!(users::get_user, users::update_user, users::delete_user))
        .routes(routes!(history::list_history))
        .routes(routes!(privacy::export_person))
        .routes(routes!(privacy::erase_person))
        .routes(routes!(privacy::get_erasure))
        .routes(routes!(imports::get_import))
        .routes(routes!(imports::follow_import))
        .routes(routes!(export::export_users))
        .routes(routes!(assignments::list_assignments))
        .routes(routes!(assignments::put_assignment, assignments::delete_assignment))
        .routes(routes!(access::get_grants))
        .routes(routes!(access::check_access))
        .routes(routes!(access::list_effective))
        .routes(routes!(groups::list_groups, groups::create_group))
        .routes(routes!(groups::get_group, groups::update_group, groups::delete_group))
        .routes(routes!(groups::list_members))
        .routes(routes!(groups::add_member, groups::remove_member))
        .routes(routes!(groups::list_groups_of_user))
        .routes(routes!(group_assignments::list_group_assignments))
        .routes(routes!(group_assignments::put_group_assignment, group_assignments::delete_group_assignment))
        .routes(routes!(permissions::list_permissions))
        .routes(routes!(permissions::declare_permissions))
        .routes(routes!(permissions::list_holders))
        .routes(routes!(roles::list_roles, roles::create_role))
        .routes(routes!(roles::get_role, roles::replace_role, roles::delete_role))
        .routes(routes!(roles::dry_run))
        .merge(scim::all())
}

/// Those whose bodies are of any size and read as they come.
pub(crate) fn streams() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(imports::import_users))
}

/// The permissions that handlers ask for.
mod allowed {
    use kronos_common::identity::Permission;

    pub(super) struct CanReadUsers;

    impl Permission for CanReadUsers {
        const NAME: &'static str = "users:read";
    }

    pub(super) struct CanWriteUsers;

    impl Permission for CanWriteUsers {
        const NAME: &'static str = "users:write";
    }

    pub(super) struct CanManageUsers;

    impl Permission for CanManageUsers {
        const NAME: &'static str = "users:manage";
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
