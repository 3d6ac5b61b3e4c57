//! Every SQL statement. Whoever changes rights holds [`rights::share_roles`] or [`rights::change_roles`] while doing so.

pub(crate) mod assignments;
pub(crate) mod attribute_filter;
pub(crate) mod attributes;
pub(crate) mod bootstrap;
pub(crate) mod group_assignments;
pub(crate) mod groups;
pub(crate) mod history;
pub(crate) mod imports;
pub(crate) mod permissions;
pub(crate) mod privacy;
pub(crate) mod rights;
pub(crate) mod roles;
pub(crate) mod scim;
pub(crate) mod users;
