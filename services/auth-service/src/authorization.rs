//! The rules of an authorization request: OAuth 2.1 with the code flow alone, PKCE with S256 alone (RFC 7636), OpenID Connect
//! Core section 3.1.2. No axum, no store.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::form_urlencoded;

use crate::{browser::FRESH, clients::is_permission};

/// Begins the `request_uri` of a pushed request (RFC 9126 section 2.2).
pub const PUSHED_PREFIX: &str = "urn:ietf:params:oauth:request_uri:";
/// A nonce is kept and repeated: it need not be a novel.
const LONGEST_NONCE: usize = 512;
const MOST_SCOPES: usize = 100;

/// The parameters of a request, in their order. An empty one counts as absent (RFC 6749 section 3.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query or a form.
    pub fn parse(encoded: &str) -> Self {
        let pairs = form_urlencoded::parse(encoded.as_bytes());
        Self(pairs.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The first of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// All of that name.
    pub fn all<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A name that is there twice and must not be (RFC 6749 section 3.1; `resource` may, RFC 8707).
    pub fn repeated(&self) -> Option<&str> {
        let names = self.0.iter().map(|(name, _)| name.as_str());
        names.enumerate().find_map(|(at, name)| {
            (name != "resource" && self.0[..at].iter().any(|(before, _)| before == name)).then_some(name)
        })
    }

    /// All but that name.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|(found, _)| found != name).cloned().collect())
    }

    /// Form-encoded.
    pub fn encode(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }
}

/// How the answer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseMode {
    #[default]
    Query,
    FormPost,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub scope: Vec<String>,
    pub code_challenge: Option<String>,
    pub nonce: Option<String>,
    pub resources: Vec<String>,
    pub dpop_jkt: Option<String>,
    pub prompt: Prompt,
    pub max_age: Option<TimeDelta>,
    pub login_hint: Option<String>,
}

/// `prompt` (OpenID Connect Core section 3.1.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prompt {
    pub none: bool,
    pub login: bool,
    pub consent: bool,
}

/// What the client registered that bears on it.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'c> {
    pub requires_pkce: bool,
    pub permissions: &'c [String],
    pub scopes: &'c [String],
    /// One of ours: nobody is asked.
    pub first_party: bool,
}

/// An error that goes back to the client (RFC 6749 section 4.1.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub error: &'static str,
    pub description: &'static str,
}

const fn refuse(error: &'static str, description: &'static str) -> Refusal {
    Refusal { error, description }
}

/// How to answer, which is known before anything else may be wrong.
pub fn response_mode(parameters: &Parameters) -> Result<ResponseMode, Refusal> {
    match parameters.get("response_mode") {
        None | Some("query") => Ok(ResponseMode::Query),
        Some("form_post") => Ok(ResponseMode::FormPost),
        Some(_) => Err(refuse("invalid_request", "response_mode is query or form_post")),
    }
}

/// The redirect URI to answer to: byte for byte a registered one, but that a loopback address may have any port (RFC 8252
/// section 7.3). `None`: the answer goes nowhere.
pub fn redirect_uri<'p>(registered: &[String], asked: Option<&'p str>) -> Option<&'p str> {
    let asked = asked?;
    registered.iter().any(|known| known == asked || is_same_loopback(known, asked)).then_some(asked)
}

fn is_same_loopback(known: &str, asked: &str) -> bool {
    match (without_loopback_port(known), without_loopback_port(asked)) {
        (Some(known), Some(asked)) => known == asked,
        _ => false,
    }
}

/// Host and path of `http://127.0.0.1[:port]/…` or `http://[::1][:port]/…`.
fn without_loopback_port(uri: &str) -> Option<(&str, &str)> {
    let (host, rest) =
        ["http://127.0.0.1", "http://[::1]"].into_iter().find_map(|host| Some((host, uri.strip_prefix(host)?)))?;
    let path = match rest.strip_prefix(':') {
        Some(rest) => {
            let path = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
            rest[..rest.len() - path.len()].parse::<u16>().ok()?;
            path
        }
        None => rest,
    };
    // What follows the port begins a path or a query; anything else would make another host of it.
    (path.is_empty() || path.starts_with(['/', '?'])).then_some((host, path))
}

/// Reads the rest of the request.
///
/// # Errors
/// What goes back to the client.
pub fn read(parameters: &Parameters, limits: Limits<'_>) -> Result<Request, Refusal> {
    if parameters.repeated().is_some() {
        return Err(refuse("invalid_request", "a parameter is there twice"));
    }
    if parameters.0.iter().any(|(_, value)| value.contains(char::is_control)) {
        return Err(refuse("invalid_request", "a parameter holds a control character"));
    }
    if parameters.get("request").is_some() {
        return Err(refuse("request_not_supported", "request objects are not taken: push the request (RFC 9126)"));
    }
    if parameters.get("request_uri").is_some() {
        return Err(refuse("request_uri_not_supported", "a request_uri is one that /oauth/par gave"));
    }
    response_mode(parameters)?;
    match parameters.get("response_type") {
        Some("code") => {}
        None => return Err(refuse("invalid_request", "response_type is missing")),
        Some(_) => return Err(refuse("unsupported_response_type", "response_type is code")),
    }
    let max_age = parameters.get("max_age").map(|text| text.parse::<u32>().map(i64::from).map(TimeDelta::seconds));
    let max_age = max_age.transpose().map_err(|_| refuse("invalid_request", "max_age is a whole number of seconds"))?;
    let nonce = parameters.get("nonce").map(str::to_owned);
    if nonce.as_ref().is_some_and(|nonce| nonce.len() > LONGEST_NONCE) {
        return Err(refuse("invalid_request", "nonce has at most 512 bytes"));
    }
    let dpop_jkt = parameters.get("dpop_jkt").map(str::to_owned);
    if dpop_jkt.as_ref().is_some_and(|jkt| !is_sha256(jkt)) {
        return Err(refuse("invalid_request", "dpop_jkt is the base64url of a SHA-256"));
    }
    Ok(Request {
        scope: scope(parameters.get("scope"), limits)?,
        code_challenge: challenge(parameters, limits.requires_pkce)?,
        nonce,
        resources: parameters.all("resource").map(str::to_owned).collect(),
        dpop_jkt,
        prompt: prompt(parameters.get("prompt"))?,
        max_age,
        login_hint: parameters.get("login_hint").map(str::to_owned),
    })
}

fn challenge(parameters: &Parameters, required: bool) -> Result<Option<String>, Refusal> {
    let method = parameters.get("code_challenge_method");
    let Some(challenge) = parameters.get("code_challenge") else {
        return match (required, method) {
            (false, None) => Ok(None),
            _ => Err(refuse("invalid_request", "code_challenge is missing (PKCE, RFC 7636)")),
        };
    };
    // Absent means `plain`, which shows the verifier to whom it should be hidden from.
    if method != Some("S256") {
        return Err(refuse("invalid_request", "code_challenge_method is S256"));
    }
    if !is_sha256(challenge) {
        return Err(refuse("invalid_request", "code_challenge is the base64url of a SHA-256"));
    }
    Ok(Some(challenge.to_owned()))
}

fn is_sha256(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == 32)
}

/// Scopes that mean something here and that the client may ask for; others are left out (OpenID Connect Core section 3.1.2.1).
///
/// # Errors
/// `invalid_scope` for a permission that the client does not hold: silence would surprise later.
pub fn scope(asked: Option<&str>, limits: Limits<'_>) -> Result<Vec<String>, Refusal> {
    let mut scope: Vec<String> = Vec::new();
    for name in asked.unwrap_or_default().split_ascii_whitespace() {
        let known = if is_permission(name) {
            // Ours may do all that their user may.
            let held = limits.first_party
                || limits.permissions.iter().any(|held| kronos_common::identity::permission_matches(held, name));
            if !held {
                return Err(refuse("invalid_scope", "the client may not ask for one of these permissions"));
            }
            true
        } else {
            limits.scopes.iter().any(|scope| scope == name)
        };
        if known && !scope.iter().any(|found| found == name) {
            scope.push(name.to_owned());
        }
    }
    // No permission named means all that the client may have. They are written out, so that the person sees them, and so that
    // a yes to these is no yes to others.
    if !limits.first_party && !scope.iter().any(|name| is_permission(name)) {
        scope.extend(limits.permissions.iter().cloned());
    }
    if scope.len() > MOST_SCOPES {
        return Err(refuse("invalid_scope", "at most 100 scopes"));
    }
    Ok(scope)
}

fn prompt(text: Option<&str>) -> Result<Prompt, Refusal> {
    let mut prompt = Prompt::default();
    let mut names = 0;
    for name in text.unwrap_or_default().split_ascii_whitespace() {
        names += 1;
        match name {
            "none" => prompt.none = true,
            // There is one account in a browser at a time: choosing another one is logging in.
            "login" | "select_account" => prompt.login = true,
            "consent" => prompt.consent = true,
            _ => return Err(refuse("invalid_request", "prompt is none, login, consent or select_account")),
        }
    }
    if prompt.none && names > 1 {
        return Err(refuse("invalid_request", "prompt=none stands alone"));
    }
    Ok(prompt)
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    LogIn,
    AskConsent,
    Issue,
    Refuse(Refusal),
}

/// What bears on it.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'s> {
    /// When the person logged in, if anybody is.
    pub auth_time: Option<DateTime<Utc>>,
    /// They did so for this very request.
    pub fresh: bool,
    /// What they let this client do before.
    pub granted: Option<&'s [String]>,
    /// They have just said yes to this very request.
    pub consented: bool,
    pub first_party: bool,
    pub now: DateTime<Utc>,
}

/// Decides.
pub fn decide(request: &Request, situation: Situation<'_>) -> Step {
    let Situation { auth_time, fresh, granted, consented, first_party, now } = situation;
    let too_old = |at: DateTime<Utc>| request.max_age.is_some_and(|max_age| now - at > max_age);
    let must_log_in = match auth_time {
        None => true,
        Some(at) => !fresh && (request.prompt.login || request.max_age == Some(TimeDelta::zero()) || too_old(at)),
    };
    if must_log_in {
        return if request.prompt.none {
            Step::Refuse(refuse("login_required", "nobody is logged in, or not recently enough"))
        } else {
            Step::LogIn
        };
    }
    let covered =
        first_party || granted.is_some_and(|granted| request.scope.iter().all(|scope| granted.contains(scope)));
    if consented || (covered && !request.prompt.consent) {
        Step::Issue
    } else if request.prompt.none {
        Step::Refuse(refuse("consent_required", "the person has not let this client do so"))
    } else {
        Step::AskConsent
    }
}

/// Whether the verifier is the one of the challenge (RFC 7636 section 4.6); in constant time.
pub fn verifies(challenge: &str, verifier: &str) -> bool {
    let well_formed = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
    well_formed && bool::from(digest.as_bytes().ct_eq(challenge.as_bytes()))
}

/// The redirect URI with more in its query; what is there stays byte for byte.
pub fn append(uri: &str, answer: &[(&str, String)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(answer).finish();
    let separator = if !uri.contains('?') {
        "?"
    } else if uri.ends_with(['?', '&']) {
        ""
    } else {
        "&"
    };
    format!("{uri}{separator}{query}")
}

/// What a Content-Security-Policy calls the place that a redirect URI is at: browsers follow a redirect after a form only to
/// where `form-action` lets them.
pub fn form_action(uri: &str) -> Option<String> {
    let url = url::Url::parse(uri).ok()?;
    if matches!(url.scheme(), "http" | "https") {
        Some(url.origin().ascii_serialization())
    } else {
        Some(format!("{}:", url.scheme()))
    }
}

/// The query without what we added to it.
pub fn own_query(parameters: &Parameters) -> String {
    parameters.without(FRESH).encode()
}
