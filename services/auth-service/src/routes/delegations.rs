//! Who acts for a robot under a ticket, and the end of it: one call of the desk that closes the ticket.

use axum::extract::State;
use kronos_common::{
    extract::{Json, Path},
    identity::Allowed,
    problem::{ProblemBody, Result},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::permissions::CanWriteSessions;
use crate::{
    App,
    flows::exchange::{close_ticket, is_ticket},
    store::{self, delegations::Delegation},
};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delegations {
    /// The newest 200, one for each token.
    items: Vec<Delegation>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClosedTicket {
    /// Tokens that were alive and are refused everywhere now.
    ended: usize,
}

/// Lists who acts, or acted, under a ticket.
#[utoipa::path(
    get, path = "/auth/tickets/{ticket}/delegations", tag = "auth-service", security(("bearer" = [])),
    params(("ticket" = String, Path, description = "The ticket's name at the desk")),
    responses(
        (status = 200, description = "The newest", body = Delegations),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `sessions:write`", body = ProblemBody),
    )
)]
pub(super) async fn list_delegations(
    State(app): State<App>,
    _: Allowed<CanWriteSessions>,
    Path(ticket): Path<String>,
) -> Result<Json<Delegations>> {
    let items = if is_ticket(&ticket) { store::delegations::list(&app.pool, &ticket).await? } else { Vec::new() };
    Ok(Json(Delegations { items }))
}

/// Closes a ticket: every token under it is refused by every service, and no new one is issued. Again is harmless.
#[utoipa::path(
    delete, path = "/auth/tickets/{ticket}/delegations", tag = "auth-service", security(("bearer" = [])),
    params(("ticket" = String, Path, description = "The ticket's name at the desk")),
    responses(
        (status = 200, description = "Closed", body = ClosedTicket),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `sessions:write`", body = ProblemBody),
        (status = 422, description = "Not a ticket's name", body = ProblemBody),
    )
)]
pub(super) async fn end_delegations(
    State(app): State<App>,
    allowed: Allowed<CanWriteSessions>,
    Path(ticket): Path<String>,
) -> Result<Json<ClosedTicket>> {
    let ended = close_ticket(&app, &ticket, allowed.caller.subject()).await?;
    Ok(Json(ClosedTicket { ended }))
}
