//! The next tokens of a session (RFC 6749 section 6): of an OAuth client, or of a login without one.

use axum::http::{HeaderMap, StatusCode, header};
use kronos_common::problem::Problem;

use super::Asked;
use crate::{
    App,
    clients::Scope,
    flows::{
        issue::{self, IssueFor, TokenAnswer},
        refresh::{self, Refreshed},
    },
    routes::oauth::Form,
    tokens::LOGIN_CLIENT,
};

/// Whether nobody but the login's own public client, which has no secret to show, can have sent it.
pub(super) fn is_of_a_login(_app: &App, headers: &HeaderMap, form: &Form) -> bool {
    let shows_nothing = !headers.contains_key(header::AUTHORIZATION)
        && form.get("client_secret").is_none()
        && form.get("client_assertion").is_none();
    shows_nothing && form.get("client_id").is_none_or(|client| client == LOGIN_CLIENT)
}

pub(super) async fn of_a_login(app: &App, form: &Form) -> Result<TokenAnswer, Problem> {
    let pair = refresh::refresh(app, form.need("refresh_token")?).await.map_err(as_grant)?;
    Ok(TokenAnswer {
        access_token: pair.access_token,
        token_type: pair.token_type,
        expires_in: pair.expires_in,
        scope: None,
        refresh_token: Some(pair.refresh_token),
        id_token: None,
        issued_token_type: None,
    })
}

pub(super) async fn grant(asked: Asked<'_>) -> Result<TokenAnswer, Problem> {
    let (app, client) = (asked.app, &asked.client.client);
    let wanted = asked.form.get("scope").map(|scope| Scope::parse(scope, client)).transpose();
    let wanted = wanted
        .map_err(|unknown| Problem::bad_request("invalid_scope", format!("{unknown} is no scope of this client")))?;
    let resources = asked.form.all("resource");
    let audience = asked.audience()?;
    let token = asked.form.need("refresh_token")?;
    let rotated = refresh::rotate(app, token, |family| {
        let own = family.client_id == client.client_id && family.scope.is_some();
        let key_fits = family.dpop_jkt.is_none() || family.dpop_jkt == asked.dpop_jkt;
        let scope_fits = wanted.as_ref().is_none_or(|wanted| {
            let granted = Scope::stored(family.scope.as_deref().unwrap_or_default());
            wanted.is_within(&granted)
        });
        let target_fits = resources.is_empty()
            || family.resources.is_empty()
            || audience.iter().all(|wanted| family.resources.contains(wanted));
        match (own && key_fits, scope_fits, target_fits) {
            (false, ..) => Err(refresh::invalid()),
            (_, false, _) => Err(Problem::bad_request("invalid_scope", "that is more than was granted")),
            (_, _, false) => Err(Problem::bad_request("invalid_target", "that is for more than was granted")),
            _ => Ok(()),
        }
    });
    let Refreshed { family, grants, generation } = rotated.await.map_err(as_grant)?;
    app.metrics.tokens.with_label_values(&["refresh"]).inc();
    let granted = wanted.unwrap_or_else(|| Scope::stored(family.scope.as_deref().unwrap_or_default()));
    let resources = if resources.is_empty() { &family.resources } else { &audience };
    let issue = IssueFor {
        client,
        grants,
        session: family.id,
        generation,
        scope: &granted,
        nonce: None,
        auth_time: family.auth_time.unwrap_or(family.created_at),
        amr: &family.amr,
        acr: family.acr.as_deref(),
        resources,
        dpop_jkt: asked.dpop_jkt.as_deref(),
    };
    issue::tokens(app, issue).await
}

fn as_grant(problem: Problem) -> Problem {
    match problem.status() {
        StatusCode::UNAUTHORIZED | StatusCode::CONFLICT => Problem::bad_request("invalid_grant", problem.detail()),
        _ => problem,
    }
}
