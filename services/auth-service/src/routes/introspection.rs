//! Questions of clients about tokens, and their end: introspection (RFC 7662) and revocation (RFC 7009). An access token is
//! verified in memory; of a refresh token its family's row is asked.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{TimeDelta, Utc};
use kronos_common::{
    extract::Bytes,
    identity::{Actor, Confirmation},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    NO_STORE,
    oauth::{self, Form, TokenError},
};
use crate::{
    App,
    clients::{Client, Scope},
    flows::{client_auth, tokens},
    refresh_token::{Verdict, judge},
    store,
    tokens::LOGIN_CLIENT,
};

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes the form, which is read field by field")]
pub(super) struct TokenQuestion {
    token: String,
    /// Not needed: tokens tell their kind.
    token_type_hint: Option<String>,
    /// Unless HTTP Basic is used.
    client_id: Option<String>,
    client_secret: Option<String>,
    client_assertion_type: Option<String>,
    client_assertion: Option<String>,
}

/// RFC 7662 section 2.2. Of a token that is not good, or not the caller's to ask about, only `active` is told.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Introspection {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// `Bearer`, `DPoP`, or `refresh_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<Vec<String>>,
    /// Who acts for the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    act: Option<Actor>,
    /// The key that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    cnf: Option<Confirmation>,
}

/// Says whether a token is good now, and what it says.
///
/// To clients that hold `tokens:verify` about every token, to others about their own.
#[utoipa::path(
    post, path = "/oauth/introspect", tag = "auth-service",
    request_body(content = TokenQuestion, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "Good or not", body = Introspection),
        (status = 400, description = "`invalid_request`", body = TokenError),
        (status = 401, description = "`invalid_client`", body = TokenError),
        (status = 415, description = "Not a form", body = TokenError),
        (status = 503, description = "Try again", body = TokenError),
    )
)]
pub(super) async fn introspect_token(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    oauth::answer(introspect(&app, &headers, &body.0).await, &headers)
}

async fn introspect(app: &App, headers: &HeaderMap, body: &[u8]) -> Result<Introspection, Problem> {
    let form = Form::read(headers, body)?;
    let asking = oauth::authenticate(app, headers, &form).await?;
    let token = form.need("token")?;
    if let Some(refresh) = app.refresh_tokens.decode(token) {
        return of_refresh_token(app, &asking.client, refresh).await;
    }
    let claims = match app.verifier.inspect(token).await {
        Ok(claims) => claims,
        Err(problem) if problem.status().is_server_error() => return Err(problem),
        Err(_) => return Ok(Introspection::default()),
    };
    if !may_ask(&asking.client, &claims.client_id) {
        return Ok(Introspection::default());
    }
    Ok(Introspection {
        active: true,
        scope: Some(claims.scope.clone().unwrap_or_else(|| claims.permissions.join(" "))),
        client_id: Some(claims.client_id.clone()),
        username: claims.username.clone(),
        token_type: Some(if claims.cnf.is_some() { "DPoP" } else { "Bearer" }),
        exp: Some(claims.exp),
        iat: Some(claims.iat),
        sub: Some(claims.sub.clone()),
        aud: Some(claims.aud.clone()),
        iss: Some(claims.iss.clone()),
        jti: Some(claims.jti.clone()),
        sid: claims.sid.clone(),
        roles: Some(claims.roles.clone()),
        permissions: Some(claims.permissions.clone()),
        act: claims.act.clone(),
        cnf: claims.cnf.clone(),
    })
}

async fn of_refresh_token(
    app: &App,
    asking: &Client,
    token: crate::refresh_token::RefreshToken,
) -> Result<Introspection, Problem> {
    let Some(found) = store::families::find(&app.pool, token.family).await? else {
        return Ok(Introspection::default());
    };
    let family = found.row;
    let grace = TimeDelta::seconds(i64::try_from(app.tokens.refresh_grace_seconds).unwrap_or(0));
    let verdict = judge(token.generation, &family.state(), Utc::now(), grace);
    if !matches!(verdict, Verdict::Current | Verdict::Repeated) || !may_ask(asking, &family.client_id) {
        return Ok(Introspection::default());
    }
    Ok(Introspection {
        active: true,
        scope: family.scope.as_ref().map(|scope| Scope::stored(scope).items().join(" ")),
        client_id: Some(family.client_id),
        token_type: Some("refresh_token"),
        exp: Some(family.expires_at.min(family.idle_expires_at).timestamp()),
        iat: Some(family.rotated_at.timestamp()),
        sub: Some(family.user_id.to_string()),
        iss: Some(app.issuer.name().to_owned()),
        sid: Some(family.id.to_string()),
        cnf: family.dpop_jkt.map(|jkt| Confirmation { jkt }),
        ..Introspection::default()
    })
}

fn may_ask(asking: &Client, client_id: &str) -> bool {
    asking.client_id == client_id || client_auth::may(asking, "tokens:verify")
}

/// Ends a token: an access token by itself, a refresh token with its session. An unknown one is no error.
#[utoipa::path(
    post, path = "/oauth/revoke", tag = "auth-service",
    request_body(content = TokenQuestion, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "It is good no more"),
        (status = 400, description = "`invalid_request`, `unauthorized_client`: it is another client's", body = TokenError),
        (status = 401, description = "`invalid_client`", body = TokenError),
        (status = 415, description = "Not a form", body = TokenError),
        (status = 503, description = "Try again", body = TokenError),
    )
)]
pub(super) async fn revoke_token(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    match revoke(&app, &headers, &body.0).await {
        Ok(()) => (StatusCode::OK, NO_STORE).into_response(),
        Err(problem) => oauth::refuse(problem, &headers),
    }
}

async fn revoke(app: &App, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
    let form = Form::read(headers, body)?;
    // The login's own client is public and has no row.
    let is_login = form.get("client_id") == Some(LOGIN_CLIENT) && !headers.contains_key("authorization");
    let client_id = if is_login {
        LOGIN_CLIENT.to_owned()
    } else {
        oauth::authenticate(app, headers, &form).await?.client.client_id.clone()
    };
    match tokens::revoke(app, &client_id, form.need("token")?).await? {
        true => Ok(()),
        false => Err(Problem::bad_request("unauthorized_client", "the token is another client's")),
    }
}
