//! The token endpoint of OAuth 2.1 (RFC 6749): form in, JSON out. Each grant is a module below.

mod authorization_code;
mod client_credentials;
mod device_code;
mod exchange;
mod refresh_token;

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use kronos_common::{extract::Bytes, problem::Problem};
use serde::Deserialize;
use utoipa::ToSchema;

use super::oauth::{self, Form, TokenError};
use crate::{
    App,
    clients::{GrantType, Registered},
    flows::{dpop, issue, issue::TokenAnswer},
};

const PATH: &str = "/oauth/token";

/// The form's fields; others are ignored (RFC 6749 section 3.2).
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes the form, which is read field by field")]
pub(super) struct TokenRequest {
    grant_type: GrantType,
    /// Permissions and `openid profile email offline_access`, separated by spaces: less than what may be had.
    scope: Option<String>,
    /// Unless HTTP Basic is used.
    client_id: Option<String>,
    client_secret: Option<String>,
    /// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`
    client_assertion_type: Option<String>,
    /// Signed by the client (RFC 7523).
    client_assertion: Option<String>,
    refresh_token: Option<String>,
    /// Of an authorization code: the code, where it came to, and the verifier of its challenge (RFC 7636).
    code: Option<String>,
    redirect_uri: Option<String>,
    code_verifier: Option<String>,
    /// Of a device (RFC 8628).
    device_code: Option<String>,
    /// Whom the token is for (RFC 8707), as often as needed.
    resource: Option<String>,
    /// Of an exchange (RFC 8693): the token, or the node, for whom somebody acts.
    subject_token: Option<String>,
    subject_token_type: Option<String>,
    actor_token: Option<String>,
    actor_token_type: Option<String>,
    /// Of an exchange: the ticket with which the acting ends.
    ticket: Option<String>,
}

/// A request that came this far: who sends it, and which key it proved.
struct Asked<'a> {
    app: &'a App,
    client: Arc<Registered>,
    form: &'a Form,
    dpop_jkt: Option<String>,
}

impl Asked<'_> {
    /// # Errors
    /// 400 `unauthorized_client`.
    fn may_use(&self, grant: GrantType) -> Result<(), Problem> {
        if self.client.client.may_use(grant) {
            Ok(())
        } else {
            let detail = format!("this client may not use the grant {}", grant.name());
            Err(Problem::bad_request("unauthorized_client", detail))
        }
    }

    /// Whom the token is for.
    ///
    /// # Errors
    /// 400 `invalid_target`.
    fn audience(&self) -> Result<Vec<String>, Problem> {
        issue::audience(self.app, &self.client.client, &self.form.all("resource")).map_err(|unknown| {
            Problem::bad_request("invalid_target", format!("this client is not registered for the resource {unknown}"))
        })
    }
}

/// Issues tokens to OAuth clients.
///
/// With a header `DPoP` (RFC 9449) they are bound to the proof's key.
#[utoipa::path(
    post, path = "/oauth/token", tag = "auth-service",
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    params(("DPoP" = Option<String>, Header, description = "A proof: the tokens are bound to its key")),
    responses(
        (status = 200, description = "A token", body = TokenAnswer),
        (status = 400, description = "`invalid_request`, `invalid_grant`, `invalid_scope`, `invalid_target`, `unauthorized_client`, `unsupported_grant_type`, `invalid_dpop_proof`", body = TokenError),
        (status = 401, description = "`invalid_client`", body = TokenError),
        (status = 415, description = "Not a form", body = TokenError),
        (status = 503, description = "Try again", body = TokenError),
    )
)]
pub(super) async fn issue_token(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    oauth::answer(grant(&app, &headers, &body.0).await, &headers)
}

async fn grant(app: &App, headers: &HeaderMap, body: &[u8]) -> Result<TokenAnswer, Problem> {
    let form = Form::read(headers, body)?;
    let grant_type = form.need("grant_type")?;
    if grant_type == "refresh_token" && refresh_token::is_of_a_login(app, headers, &form) {
        return refresh_token::of_a_login(app, &form).await;
    }
    let Some(grant_type) = GrantType::ALL.into_iter().find(|known| known.name() == grant_type) else {
        return Err(Problem::bad_request("unsupported_grant_type", "there is no such grant here"));
    };
    let client = oauth::authenticate(app, headers, &form).await?;
    let proofs: Vec<&str> = headers.get_all("dpop").iter().map(|value| value.to_str().unwrap_or_default()).collect();
    let dpop_jkt = dpop::proved_key(app, &proofs, "POST", PATH).await?;
    if client.client.dpop_bound_access_tokens && dpop_jkt.is_none() {
        return Err(Problem::bad_request(
            "invalid_dpop_proof",
            "this client's tokens are bound to a key: send a proof",
        ));
    }
    let asked = Asked { app, client, form: &form, dpop_jkt };
    asked.may_use(grant_type)?;
    match grant_type {
        GrantType::ClientCredentials => client_credentials::grant(asked),
        GrantType::RefreshToken => refresh_token::grant(asked).await,
        GrantType::TokenExchange => exchange::grant(asked).await,
        GrantType::AuthorizationCode => authorization_code::grant(asked).await,
        GrantType::DeviceCode => device_code::grant(asked).await,
    }
}
