//! The code that a browser brought back, for tokens (RFC 6749 section 4.1.3, RFC 7636 section 4.5).

use kronos_common::problem::Problem;

use super::Asked;
use crate::flows::{
    codes::{Redemption, redeem},
    issue::TokenAnswer,
};

pub(super) async fn grant(asked: Asked<'_>) -> Result<TokenAnswer, Problem> {
    let client = &asked.client.client;
    let resources = asked.form.all("resource");
    let shown = Redemption {
        code: asked.form.need("code")?,
        redirect_uri: asked.form.get("redirect_uri"),
        verifier: asked.form.get("code_verifier"),
        resources: &resources,
        dpop_jkt: asked.dpop_jkt.as_deref(),
        device: Some(&client.name),
    };
    redeem(asked.app, client, &shown).await
}
