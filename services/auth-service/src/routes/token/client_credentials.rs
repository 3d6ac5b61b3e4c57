//! A program that speaks for itself (RFC 6749 section 4.4). Its row is remembered, so that no store is asked.

use chrono::Utc;
use kronos_common::problem::Problem;

use super::Asked;
use crate::{
    clients::narrow,
    flows::issue::{TokenAnswer, token_type},
    tokens::Subject,
};

pub(super) fn grant(asked: Asked<'_>) -> Result<TokenAnswer, Problem> {
    let client = &asked.client.client;
    let permissions = narrow(&client.permissions, asked.form.get("scope"))
        .map_err(|missing| Problem::bad_request("invalid_scope", format!("this client does not hold {missing}")))?;
    let scope = permissions.join(" ");
    let subject = Subject {
        audience: asked.audience()?,
        dpop_jkt: asked.dpop_jkt.clone(),
        ..Subject::client(client.client_id.clone(), permissions, client.epoch)
    };
    asked.app.metrics.tokens.with_label_values(&["client_credentials"]).inc();
    let issued = asked.app.issuer.issue(subject, Utc::now());
    Ok(TokenAnswer {
        access_token: issued.token,
        token_type: token_type(asked.dpop_jkt.as_deref()),
        expires_in: issued.expires_in,
        scope: Some(scope),
        refresh_token: None,
        id_token: None,
        issued_token_type: None,
    })
}
