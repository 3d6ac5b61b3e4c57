//! Declaring permissions.

use kronos_common::problem::Result;

use crate::{
    App,
    catalogue::{DeclaredPermission, Permission},
    store,
};

/// Makes these the permissions of a service, and gives them as they are now.
pub(crate) async fn declare(app: &App, service: &str, declared: &[DeclaredPermission]) -> Result<Vec<Permission>> {
    let mut transaction = app.pool.begin().await?;
    store::permissions::declare(&mut transaction, service, declared).await?;
    transaction.commit().await?;
    let most = i64::try_from(declared.len()).unwrap_or(i64::MAX);
    store::permissions::list(&app.pool, Some(service), None, most).await
}
