//! An authorization request on its way: whose it is, where its answer goes, what is asked of the person, and the code at the end.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::problem::Problem;
use rand::RngExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{browsers::idle_end, issue::audience};
use crate::{
    App,
    audit::SecurityEvent,
    authorization::{
        self, Limits, PUSHED_PREFIX, Parameters, Refusal, Request, ResponseMode, Situation, Step, response_mode,
    },
    clients::{Client, GrantType},
    store::{self, browsers::BrowserSession, codes::Code},
};

/// A code is redeemed at once or never.
const CODE_LIFE: TimeDelta = TimeDelta::seconds(60);
/// From the push to the browser's arrival (RFC 9126 section 2.2), in seconds.
pub(crate) const PUSHED_SECONDS: i64 = 90;
/// From the browser's arrival to the end of the login.
const LOGIN_TIME: TimeDelta = TimeDelta::minutes(30);

/// Why a request is answered to nobody but the person: there is no place to trust.
pub(crate) enum Untrusted {
    UnknownClient,
    UnknownRedirect,
    /// A pushed request that was used or is too old.
    UnknownRequest,
    Failed(Problem),
}

impl From<sqlx::Error> for Untrusted {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A request whose answer has a place to go.
pub(crate) struct Placed {
    pub client: Client,
    pub redirect_uri: String,
    pub mode: ResponseMode,
    pub state: Option<String>,
    pub ui_locales: Option<String>,
    pub request: Result<Request, Refusal>,
    pushed: Option<Vec<u8>>,
}

/// A random text, and what is stored of it.
pub(crate) fn new_secret() -> (String, Vec<u8>) {
    let bytes: [u8; 32] = rand::rng().random();
    let text = URL_SAFE_NO_PAD.encode(bytes);
    let hash = hash(&text);
    (text, hash)
}

/// What is stored of a random text.
pub(crate) fn hash(text: &str) -> Vec<u8> {
    Sha256::digest(text).to_vec()
}

/// Finds client and place, then reads the rest.
///
/// # Errors
/// See [`Untrusted`].
pub(crate) async fn place(app: &App, parameters: &Parameters) -> Result<Placed, Untrusted> {
    let now = Utc::now();
    let client_id = parameters.get("client_id").ok_or(Untrusted::UnknownClient)?;
    let client = store::clients::find(&app.pool, client_id).await?.ok_or(Untrusted::UnknownClient)?;
    let reference = parameters.get("request_uri").and_then(|uri| uri.strip_prefix(PUSHED_PREFIX)).map(hash);
    let pushed = match &reference {
        None => None,
        Some(reference) => {
            // What was pushed is all that counts (RFC 9126 section 4).
            let found = store::codes::pushed(&app.pool, reference, client_id, now).await?;
            let found = found.ok_or(Untrusted::UnknownRequest)?;
            store::codes::keep_pushed(&app.pool, reference, now + LOGIN_TIME).await?;
            Some(Parameters::parse(&found))
        }
    };
    place_for(app, client, pushed.as_ref().unwrap_or(parameters), reference)
}

/// The same for a client that is known, without looking for a pushed request.
pub(crate) fn place_for(
    app: &App,
    client: Client,
    parameters: &Parameters,
    pushed: Option<Vec<u8>>,
) -> Result<Placed, Untrusted> {
    let redirect_uri = authorization::redirect_uri(&client.redirect_uris, parameters.get("redirect_uri"));
    let redirect_uri = redirect_uri.ok_or(Untrusted::UnknownRedirect)?.to_owned();
    let request = if client.may_use(GrantType::AuthorizationCode) {
        let limits = Limits {
            // A public client has nothing else that shows who redeems the code.
            requires_pkce: client.require_pkce || !client.token_endpoint_auth_method.is_confidential(),
            permissions: &client.permissions,
            scopes: &client.scopes,
            first_party: client.first_party,
        };
        authorization::read(parameters, limits)
    } else {
        let description = "the client is not registered for the grant authorization_code";
        Err(Refusal { error: "unauthorized_client", description })
    };
    let request = request.and_then(|request| match audience(app, &client, &request.resources) {
        Ok(_) => Ok(request),
        Err(_) => Err(Refusal { error: "invalid_target", description: "the client has no access to a resource" }),
    });
    Ok(Placed {
        mode: response_mode(parameters).unwrap_or_default(),
        state: parameters.get("state").filter(|state| !state.contains(char::is_control)).map(str::to_owned),
        ui_locales: parameters.get("ui_locales").map(str::to_owned),
        client,
        redirect_uri,
        request,
        pushed,
    })
}

impl Placed {
    /// The parameters of an answer: what is given, `state`, `iss` (RFC 9207).
    pub(crate) fn answer(&self, issuer: &str, first: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
        let mut answer = first;
        answer.extend(self.state.clone().map(|state| ("state", state)));
        answer.push(("iss", issuer.to_owned()));
        answer
    }

    /// The parameters of a refusal.
    pub(crate) fn refusal(&self, issuer: &str, refusal: &Refusal) -> Vec<(&'static str, String)> {
        let error = ("error", refusal.error.to_owned());
        self.answer(issuer, vec![error, ("error_description", refusal.description.to_owned())])
    }
}

/// What comes next for this person.
///
/// # Errors
/// The database.
pub(crate) async fn step(
    app: &App,
    placed: &Placed,
    request: &Request,
    session: Option<&BrowserSession>,
    fresh: bool,
    consented: bool,
    now: DateTime<Utc>,
) -> Result<Step, Problem> {
    let granted = match session {
        Some(session) => store::browsers::consent(&app.pool, session.user_id, &placed.client.client_id).await?,
        None => None,
    };
    let situation = Situation {
        auth_time: session.map(|session| session.auth_time),
        fresh,
        granted: granted.as_deref(),
        consented,
        first_party: placed.client.first_party,
        now,
    };
    Ok(authorization::decide(request, situation))
}

/// Issues the code; `None` if the pushed request was used meanwhile.
///
/// # Errors
/// The database.
pub(crate) async fn issue_code(
    app: &App,
    placed: &Placed,
    request: &Request,
    session: &BrowserSession,
    consented: bool,
) -> Result<Option<String>, Problem> {
    let now = Utc::now();
    let (code, code_hash) = new_secret();
    let row = Code {
        client_id: placed.client.client_id.clone(),
        user_id: session.user_id,
        browser_session_id: session.session_id,
        redirect_uri: placed.redirect_uri.clone(),
        code_challenge: request.code_challenge.clone(),
        scope: request.scope.clone(),
        resources: request.resources.clone(),
        nonce: request.nonce.clone(),
        auth_time: session.auth_time,
        amr: session.amr.clone(),
        dpop_jkt: request.dpop_jkt.clone(),
        expires_at: now + CODE_LIFE,
        used_at: None,
        session_id: None,
    };
    let mut transaction = app.pool.begin().await?;
    if let Some(reference) = &placed.pushed
        && !store::codes::use_pushed(&mut transaction, reference, now).await?
    {
        return Ok(None);
    }
    store::codes::insert(&mut transaction, &code_hash, &row, now).await?;
    store::browsers::touch(&mut *transaction, session.session_id, now, idle_end(app)).await?;
    if consented {
        store::browsers::grant(&mut transaction, session.user_id, &row.client_id, &row.scope, now).await?;
        let subject = session.user_id.to_string();
        let data = json!({ "client": row.client_id, "scope": row.scope });
        let event = SecurityEvent::about("consent-granted", subject.as_str(), Some(&subject), data);
        store::audit::record(&mut transaction, &event, now).await?;
    }
    transaction.commit().await?;
    if consented {
        app.relay.wake();
    }
    Ok(Some(code))
}

/// Keeps a request for the browser that will come with its `request_uri`.
///
/// # Errors
/// The database.
pub(crate) async fn push(app: &App, client_id: &str, parameters: &Parameters) -> Result<String, Problem> {
    let (reference, reference_hash) = new_secret();
    let expires_at = Utc::now() + TimeDelta::seconds(PUSHED_SECONDS);
    store::codes::push(&app.pool, &reference_hash, client_id, &parameters.encode(), expires_at).await?;
    Ok(format!("{PUSHED_PREFIX}{reference}"))
}
