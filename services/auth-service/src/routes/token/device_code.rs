//! A device's poll (RFC 8628 section 3.4).

use kronos_common::problem::Problem;

use super::Asked;
use crate::flows::{codes::poll, issue::TokenAnswer};

pub(super) async fn grant(asked: Asked<'_>) -> Result<TokenAnswer, Problem> {
    let client = &asked.client.client;
    let device_code = asked.form.need("device_code")?;
    poll(asked.app, client, device_code, asked.dpop_jkt.as_deref(), Some(&client.name)).await
}
