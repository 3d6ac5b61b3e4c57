//! From a checked grant to tokens: the one place where an OAuth client's session begins, and where access token, refresh token
//! and ID token of a user are made.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::problem::Problem;
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    clients::{Client, GrantType, Scope},
    grants::Grants,
    refresh_token::RefreshToken,
    store::{self, families::NewFamily},
    tokens::{IdClaims, Subject, access_token_hash},
};

/// A grant that was checked: whose, to whom, for what.
pub(crate) struct IssueFor<'a> {
    pub client: &'a Client,
    pub grants: Grants,
    /// The client's own session: begun by [`begin`], or the one that is refreshed.
    pub session: Uuid,
    /// Of the refresh token to hand out: 0 for a session that was just begun.
    pub generation: i64,
    pub scope: &'a Scope,
    pub nonce: Option<&'a str>,
    pub auth_time: DateTime<Utc>,
    pub amr: &'a [String],
    pub acr: Option<&'a str>,
    /// Checked by [`audience`].
    pub resources: &'a [String],
    /// The key of the DPoP proof that came with the request.
    pub dpop_jkt: Option<&'a str>,
}

/// RFC 6749 section 5.1, OpenID Connect Core 1.0 section 3.1.3.3, RFC 8693 section 2.2.1.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenAnswer {
    pub access_token: String,
    /// `Bearer`, or `DPoP` for a token that is bound to a key.
    #[schema(value_type = String, example = "Bearer")]
    pub token_type: &'static str,
    /// Life of the access token, in seconds.
    pub expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
    /// Of a token exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub issued_token_type: Option<&'static str>,
}

/// `Bearer`, or `DPoP` if there is a key.
pub(crate) fn token_type(dpop_jkt: Option<&str>) -> &'static str {
    if dpop_jkt.is_some() { "DPoP" } else { "Bearer" }
}

/// Begins the session of an OAuth client, in the caller's transaction; says no if the user was disabled, or the browser's
/// session ended meanwhile.
///
/// # Errors
/// The database.
pub(crate) async fn begin(
    app: &App,
    connection: &mut PgConnection,
    issue: &IssueFor<'_>,
    parent: Option<Uuid>,
    device: Option<&str>,
) -> sqlx::Result<bool> {
    let now = Utc::now();
    let (idle, whole) = (app.tokens.session_idle_seconds, app.tokens.session_seconds);
    let scope = issue.scope.items();
    // A confidential client shows who it is at every refresh; a public one only by the key.
    let bound = issue.dpop_jkt.filter(|_| !issue.client.token_endpoint_auth_method.is_confidential());
    let new = NewFamily {
        id: issue.session,
        user_id: issue.grants.user_id,
        client_id: &issue.client.client_id,
        parent,
        device,
        network: None,
        scope: &scope,
        resources: issue.resources,
        auth_time: issue.auth_time,
        amr: issue.amr,
        acr: issue.acr,
        dpop_jkt: bound,
        now,
        idle_expires_at: now + seconds(idle.min(whole)),
        expires_at: now + seconds(whole),
    };
    store::families::create(connection, &new).await
}

/// The tokens of a grant. A refresh token if the client may refresh, an ID token if `openid` was granted.
///
/// # Errors
/// 503 if too many ID tokens wait to be signed; the database.
pub(crate) async fn tokens(app: &App, issue: IssueFor<'_>) -> Result<TokenAnswer, Problem> {
    let IssueFor { client, grants, session, generation, scope, nonce, auth_time, amr, acr, resources, dpop_jkt } =
        issue;
    let now = Utc::now();
    let user_id = grants.user_id;
    let user = user_id.to_string();
    let permissions = scope.permissions_of(client, &grants.permissions);
    let granted = Scope { names: scope.names.clone(), permissions: permissions.clone() }.items().join(" ");
    let username = scope.has("profile").then(|| grants.username.clone());
    let mut subject = Subject::user(grants, session, &client.client_id);
    subject.permissions = permissions;
    subject.scope = Some(granted.clone());
    subject.audience = resources.to_vec();
    subject.dpop_jkt = dpop_jkt.map(str::to_owned);
    if !client.first_party {
        // Roles would say more of the user than was granted.
        subject.roles.clear();
    }
    let issued = app.issuer.issue(subject, now);
    let id_token = if scope.has("openid") {
        let algorithm = client.id_token_signed_response_alg;
        let email = match scope.has("email") {
            true => store::credentials::email(&app.pool, user_id).await?,
            false => None,
        };
        let claims = IdClaims {
            iss: app.issuer.name(),
            sub: &user,
            aud: &client.client_id,
            azp: &client.client_id,
            exp: now.timestamp() + issued.expires_in,
            iat: now.timestamp(),
            auth_time: auth_time.timestamp(),
            sid: session.to_string(),
            amr,
            acr,
            nonce,
            at_hash: access_token_hash(algorithm, &issued.token),
            preferred_username: username.as_deref(),
            email: email.as_ref().map(|(address, _)| address.as_str()),
            email_verified: email.as_ref().map(|(_, verified)| *verified),
        };
        Some(app.issuer.sign(algorithm, "JWT", &claims).await?)
    } else {
        None
    };
    let refresh_token = client.may_use(GrantType::RefreshToken).then(|| {
        let token = RefreshToken { family: session, generation: generation.unsigned_abs() };
        app.refresh_tokens.encode(token)
    });
    Ok(TokenAnswer {
        access_token: issued.token,
        token_type: token_type(dpop_jkt),
        expires_in: issued.expires_in,
        scope: Some(granted),
        refresh_token,
        id_token,
        issued_token_type: None,
    })
}

/// Whom a token is for (RFC 8707): Kronos for none, Kronos itself or its address, else resources that the client is registered
/// for. The error is the first that it is not.
pub(crate) fn audience(app: &App, client: &Client, resources: &[String]) -> Result<Vec<String>, String> {
    let mut audience: Vec<String> = Vec::new();
    for resource in resources {
        let own = resource == app.issuer.audience() || resource.trim_end_matches('/') == app.issuer_url;
        let name = match resource {
            _ if own => app.issuer.audience(),
            known if client.resources.contains(known) => known,
            other => return Err(other.clone()),
        };
        if !audience.iter().any(|known| known == name) {
            audience.push(name.to_owned());
        }
    }
    Ok(audience)
}

fn seconds(seconds: u64) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::from(u32::MAX)))
}
