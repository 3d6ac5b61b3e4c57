//! The gateway's own endpoints. They are answered on the gateway's port before any route is looked at.

pub mod docs;
pub mod explain;
pub mod history;
pub mod purge;
pub mod quotas;
pub mod records;
pub mod refusals;
pub mod routing;
pub mod state;
pub mod upstreams;

use kronos_common::{
    identity::{Allowed, Permission},
    problem::{Problem, Result},
};
use utoipa_axum::router::OpenApiRouter;

use crate::{App, store::history::Actor, table::Snapshot};

/// What this service asks for, declared when it starts: each with what it allows.
pub(crate) const PERMISSIONS: &[(&str, &str)] = &[("routes:read", "See routes"), ("routes:write", "Change routes")];

/// May see routes and upstreams.
#[derive(Debug)]
pub struct CanReadRoutes;

impl Permission for CanReadRoutes {
    const NAME: &'static str = "routes:read";
}

/// May change routes and upstreams.
#[derive(Debug)]
pub struct CanWriteRoutes;

impl Permission for CanWriteRoutes {
    const NAME: &'static str = "routes:write";
}

/// All of them.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(explain::router())
        .merge(history::router())
        .merge(purge::router())
        .merge(quotas::router())
        .merge(routing::router())
        .merge(upstreams::router())
        .merge(docs::router())
}

/// Who changes something.
fn actor(allowed: &Allowed<CanWriteRoutes>) -> Actor {
    let claims = &allowed.caller.claims;
    Actor { subject: claims.sub.clone(), client_id: claims.client_id.clone() }
}

/// Takes a committed change over here, before it is answered; the other instances follow by themselves.
async fn take_over(app: &App, snapshot: Snapshot) -> Result<()> {
    let live = std::sync::Arc::clone(&app.live);
    let applied = tokio::task::spawn_blocking(move || live.apply(&snapshot)).await;
    applied.map_err(Problem::internal)?.map_err(Problem::internal)?;
    Ok(())
}
