//! The configuration: the shared sections and auth-service's own. `config.default.toml` is the reference.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use kronos_common::config::{Http, Identity, Postgres, Rabbit, Redis, Sealing, ServiceConfig, Telemetry};
use kronos_common::identity::LONGEST_TOKEN_LIFE_SECONDS;
use serde::Deserialize;
use url::Url;

use crate::{network::Networks, webauthn::RelyingParty};

/// Clocks of two machines may differ by so much, in seconds.
const CLOCK_SKEW_SECONDS: u64 = 60;

/// All of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: Http,
    pub telemetry: Telemetry,
    pub postgres: Postgres,
    pub redis: Redis,
    pub rabbit: Rabbit,
    pub identity: Identity,
    pub sealing: Sealing,
    pub services: Services,
    pub passwords: Passwords,
    pub tokens: Tokens,
    pub keys: Keys,
    pub throttle: Throttle,
    pub accounts: Accounts,
    pub passkeys: Passkeys,
    pub bootstrap: Bootstrap,
    #[serde(default)]
    pub external: Vec<External>,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// `[services]`: where the others are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    pub user_url: String,
    pub user_deadline_ms: u64,
}

/// `[passwords]`: argon2id and its threads.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passwords {
    pub memory_kib: u32,
    pub iterations: u32,
    pub parallelism: u32,
    /// 0: one less than there are cores, at least one.
    pub threads: usize,
    pub queue: usize,
    pub deadline_ms: u64,
    pub min_length: usize,
}

/// `[tokens]`: how long tokens and sessions live.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    pub access_seconds: u64,
    pub session_idle_seconds: u64,
    pub session_seconds: u64,
    pub refresh_grace_seconds: u64,
    pub grants_seconds: u64,
}

/// `[keys]`: the life of a signing key.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    pub active_seconds: u64,
    pub publish_seconds: u64,
    pub retire_seconds: u64,
    pub check_seconds: u64,
    pub jwks_max_age_seconds: u64,
}

/// `[throttle]`: failed logins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    pub account_network_failures: u64,
    pub network_failures: u64,
    pub account_failures: u64,
    pub pressed_network_failures: u64,
    pub account_delay_ms: u64,
    pub account_longest_delay_ms: u64,
    pub window_seconds: u64,
    pub trusted_proxies: Networks,
}

/// `[accounts]`: what people do with their accounts themselves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    /// What authenticator apps and passkeys show.
    pub name: String,
    /// Begins the links in mails; empty: the issuer.
    pub link_base: String,
    /// 0 to 4, of zxcvbn's scale.
    pub min_password_score: u8,
    /// A login is fresh for so long: what changes how one logs in needs one.
    pub fresh_login_seconds: u32,
    pub factor_tries: u32,
    pub factor_window_seconds: u32,
    pub reset_seconds: u32,
    pub verification_seconds: u32,
    pub mails_per_account: u32,
    pub mails_per_network: u32,
    pub guesses_per_network: u32,
    pub registration: RegistrationMode,
    pub verify_email: bool,
    pub registrations_per_network: u32,
    /// What a node may do with a token that it got by its key.
    pub node_permissions: Vec<String>,
}

/// Who may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationMode {
    Open,
    Invitation,
    Closed,
}

impl Accounts {
    /// The base of links, without a slash at its end.
    pub fn link_base(&self, issuer: &str) -> String {
        let base = if self.link_base.is_empty() { issuer } else { &self.link_base };
        base.trim_end_matches('/').to_owned()
    }
}

/// `[passkeys]`: what they belong to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passkeys {
    /// Empty: the issuer's host.
    pub rp_id: String,
    /// Beside the issuer's own.
    pub origins: Vec<String>,
}

impl Passkeys {
    /// The relying party (WebAuthn Level 3 section 5.1.3).
    ///
    /// # Errors
    /// An origin that is none, or not of the domain.
    pub fn relying_party(&self, issuer: &str) -> anyhow::Result<RelyingParty> {
        let issuer = Url::parse(issuer).context("configuration key `identity.issuer`")?;
        let host = issuer.host_str().unwrap_or_default();
        let id = if self.rp_id.is_empty() { host.to_owned() } else { self.rp_id.clone() };
        let is_below = |host: &str| host == id || host.strip_suffix(&id).is_some_and(|above| above.ends_with('.'));
        ensure!(is_below(host), "configuration key `passkeys.rp_id`: the issuer's host, or a domain that it is in");
        let mut origins = vec![issuer.origin().ascii_serialization()];
        for origin in &self.origins {
            let is_good = Url::parse(origin).is_ok_and(|url| {
                url.origin().ascii_serialization() == *origin && is_below(url.host_str().unwrap_or_default())
            });
            ensure!(is_good, "configuration key `passkeys.origins`: `{origin}` is no origin of {id}");
            origins.push(origin.clone());
        }
        Ok(RelyingParty { id, origins })
    }
}

/// `[bootstrap]`: what is made at the first start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    pub file: Option<PathBuf>,
}

/// `[[external]]`: another provider to log in with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// In its paths.
    pub name: String,
    /// For people; the name if it is absent.
    pub label: Option<String>,
    pub kind: ExternalKind,
    /// Needed for `oidc`.
    pub issuer: Option<String>,
    pub client_id: String,
    /// Absent: a public client.
    pub client_secret_file: Option<PathBuf>,
}

/// What a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExternalKind {
    /// OpenID Connect, by discovery.
    Oidc,
    Google,
    Github,
}

impl Config {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first setting that contradicts another, by name.
    pub fn validate(&self) -> anyhow::Result<()> {
        let (keys, tokens) = (&self.keys, &self.tokens);
        ensure!(
            keys.publish_seconds >= keys.jwks_max_age_seconds + CLOCK_SKEW_SECONDS,
            "configuration key `keys.publish_seconds`: at least keys.jwks_max_age_seconds and {CLOCK_SKEW_SECONDS} more, \
             or tokens are signed with a key that nobody knows"
        );
        ensure!(
            keys.retire_seconds >= tokens.access_seconds + CLOCK_SKEW_SECONDS,
            "configuration key `keys.retire_seconds`: at least tokens.access_seconds and {CLOCK_SKEW_SECONDS} more, or \
             good tokens are refused"
        );
        ensure!(
            keys.active_seconds > keys.publish_seconds,
            "configuration key `keys.active_seconds`: more than keys.publish_seconds"
        );
        ensure!((1..=3600).contains(&keys.check_seconds), "configuration key `keys.check_seconds`: 1 to 3600");
        ensure!(
            (30..=LONGEST_TOKEN_LIFE_SECONDS.unsigned_abs()).contains(&tokens.access_seconds),
            "configuration key `tokens.access_seconds`: 30 to {LONGEST_TOKEN_LIFE_SECONDS}"
        );
        ensure!(
            tokens.grants_seconds < LONGEST_TOKEN_LIFE_SECONDS.unsigned_abs(),
            "configuration key `tokens.grants_seconds`: less than {LONGEST_TOKEN_LIFE_SECONDS}, which is how long a change \
             of rights is remembered"
        );
        ensure!(self.passwords.queue > 0, "configuration key `passwords.queue`: at least 1");
        ensure!(self.accounts.min_password_score <= 4, "configuration key `accounts.min_password_score`: 0 to 4");
        let throttle = &self.throttle;
        ensure!(throttle.window_seconds > 0, "configuration key `throttle.window_seconds`: at least 1");
        ensure!(
            throttle.account_network_failures > 0
                && throttle.network_failures > 0
                && throttle.pressed_network_failures > 0,
            "configuration section `throttle`: a limit is at least 1"
        );
        ensure!(
            throttle.account_longest_delay_ms < self.http.request_timeout_ms.min(10_000),
            "configuration key `throttle.account_longest_delay_ms`: less than http.request_timeout_ms, and than 10000"
        );
        Ok(())
    }
}
