//! A browser's cookie, and the tokens against forged requests that belong to it. No axum, no store.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use url::form_urlencoded;

const KEY_BYTES: usize = 32;

/// The random value of the cookie. It is made anew at each login, so that a value that somebody planted is worth nothing.
#[derive(Clone)]
pub struct BrowserKey([u8; KEY_BYTES]);

impl BrowserKey {
    /// A new one.
    pub fn new() -> Self {
        Self(rand::rng().random())
    }

    /// The cookie's text.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads the cookie's text.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?))
    }

    /// What is stored of it.
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0).to_vec()
    }

    /// A text that only this browser was given, for one purpose and one content: it proves that a form came from our page,
    /// with the hidden fields that we wrote.
    pub fn prove(&self, purpose: Purpose, content: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.mac(purpose, content).finalize().into_bytes())
    }

    /// Whether `proof` is that text; in constant time.
    pub fn accepts(&self, purpose: Purpose, content: &str, proof: &str) -> bool {
        URL_SAFE_NO_PAD.decode(proof).is_ok_and(|proof| self.mac(purpose, content).verify_slice(&proof).is_ok())
    }

    fn mac(&self, purpose: Purpose, content: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(purpose.name().as_bytes());
        mac.update(&[0]);
        mac.update(content.as_bytes());
        mac
    }
}

impl Default for BrowserKey {
    fn default() -> Self {
        Self::new()
    }
}

/// What a proof is for; one for another purpose is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Login,
    SecondFactor,
    /// The person has just logged in for this request.
    Fresh,
    Consent,
    Device,
    Logout,
    Link,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::SecondFactor => "second-factor",
            Self::Fresh => "fresh",
            Self::Consent => "consent",
            Self::Device => "device",
            Self::Logout => "logout",
            Self::Link => "link",
        }
    }
}

/// The cookie's name: with the prefix `__Host-`, browsers take it only from this very host over TLS (RFC 6265bis).
pub fn cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-kronos" } else { "kronos" }
}

/// A `Set-Cookie` value; without a life it ends with the browser.
pub fn set_cookie(name: &str, value: &str, secure: bool, max_age_seconds: Option<i64>) -> String {
    let age = max_age_seconds.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{age}{secure}")
}

/// The value of one cookie in the request's `Cookie` headers.
pub fn find_cookie<'h>(headers: impl Iterator<Item = &'h str>, name: &str) -> Option<&'h str> {
    headers
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// Where a person goes after the login: one of our own pages, so that no link can lead them elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// `/oauth/authorize` with this query.
    Authorize(String),
    /// `/device`, perhaps with the code that was typed.
    Device(Option<String>),
    /// The page that links an account of this provider.
    Link(String),
    /// Nowhere: a page says that the person is logged in.
    Done,
}

impl Next {
    /// As a hidden field of a form.
    pub fn encode(&self) -> String {
        match self {
            Self::Authorize(query) => format!("authorize?{query}"),
            Self::Device(None) => "device".to_owned(),
            Self::Device(Some(code)) => format!("device?{code}"),
            Self::Link(provider) => format!("link?{provider}"),
            Self::Done => "done".to_owned(),
        }
    }

    /// Reads the field; anything unknown leads nowhere.
    pub fn parse(text: &str) -> Self {
        match text.split_once('?') {
            Some(("authorize", query)) => Self::Authorize(query.to_owned()),
            Some(("device", code)) => Self::Device(Some(code.to_owned())),
            Some(("link", provider)) => Self::Link(provider.to_owned()),
            None if text == "device" => Self::Device(None),
            _ => Self::Done,
        }
    }

    /// The path to go to; `fresh` proves there that the person has just logged in.
    pub fn path(&self, fresh: &str) -> String {
        let query =
            |name: &str, value: &str| form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
        match self {
            Self::Authorize(request) => format!("/oauth/authorize?{request}&{}", query(FRESH, fresh)),
            Self::Device(None) => "/device".to_owned(),
            Self::Device(Some(code)) => format!("/device?{}", query("user_code", code)),
            Self::Link(provider) => {
                // A provider's name comes from the configuration; what else is typed here names no page.
                let plain = provider.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                if plain { format!("/oauth/external/{provider}/link") } else { "/oauth/logged_in".to_owned() }
            }
            Self::Done => "/oauth/logged_in".to_owned(),
        }
    }
}

/// The parameter of `/oauth/authorize` that proves a login just made.
pub const FRESH: &str = "kronos_fresh";
