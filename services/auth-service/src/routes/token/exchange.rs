//! Token exchange (RFC 8693).

use kronos_common::problem::Problem;

use super::Asked;
use crate::{
    clients::is_permission,
    flows::{
        exchange::{Exchange, For, exchange},
        issue::{TokenAnswer, token_type},
    },
};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// A robot, named by its id: it need not be there to be helped.
const NODE: &str = "urn:kronos:params:oauth:token-type:node";

pub(super) async fn grant(asked: Asked<'_>) -> Result<TokenAnswer, Problem> {
    let form = asked.form;
    let subject_token = form.need("subject_token")?;
    let subject = match form.need("subject_token_type")? {
        ACCESS_TOKEN => For::Token(subject_token),
        NODE => For::Robot(subject_token),
        _ => return Err(invalid_request(&format!("subject_token_type is {ACCESS_TOKEN} or {NODE}"))),
    };
    let actor_token = form.get("actor_token");
    if actor_token.is_some() != form.get("actor_token_type").is_some()
        || form.get("actor_token_type").is_some_and(|kind| kind != ACCESS_TOKEN)
    {
        return Err(invalid_request(&format!("actor_token comes with actor_token_type {ACCESS_TOKEN}")));
    }
    if form.get("requested_token_type").is_some_and(|kind| kind != ACCESS_TOKEN) {
        return Err(invalid_request(&format!("requested_token_type is {ACCESS_TOKEN}")));
    }
    let wanted: Vec<String> =
        form.get("scope").unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    if let Some(other) = wanted.iter().find(|wanted| !is_permission(wanted)) {
        return Err(Problem::bad_request("invalid_scope", format!("{other} is no permission")));
    }
    let exchanged = Exchange {
        client: &asked.client.client,
        subject,
        actor_token,
        ticket: form.get("ticket"),
        wanted,
        audience: asked.audience()?,
        dpop_jkt: asked.dpop_jkt.clone(),
    };
    let (issued, permissions) = exchange(asked.app, exchanged).await?;
    asked.app.metrics.tokens.with_label_values(&["exchange"]).inc();
    Ok(TokenAnswer {
        access_token: issued.token,
        token_type: token_type(asked.dpop_jkt.as_deref()),
        expires_in: issued.expires_in,
        scope: Some(permissions.join(" ")),
        refresh_token: None,
        id_token: None,
        issued_token_type: Some(ACCESS_TOKEN),
    })
}

fn invalid_request(detail: &str) -> Problem {
    Problem::bad_request("invalid_request", detail)
}
