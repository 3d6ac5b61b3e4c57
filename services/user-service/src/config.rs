//! The configuration: the shared sections and user-service's own. `config.default.toml` is the reference.

use kronos_common::config::{Http, Identity, Postgres, Rabbit, Redis, Sealing, ServiceConfig, Telemetry};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::users::{Email, Username};

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
    pub rights: Rights,
    pub privacy: Privacy,
    pub bootstrap: Bootstrap,
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
    pub auth_url: String,
    pub auth_deadline_ms: u64,
    pub log_url: String,
    pub database_admin_url: String,
}

/// `[privacy]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    pub again_after_ms: u64,
}

/// `[rights]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rights {
    pub longest_sleep_ms: u64,
    pub remembered_people: u64,
    pub check_connections: u32,
    pub keep_ended_days: u32,
}

/// `[bootstrap]`: the first administrator.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    pub admin_username: String,
    pub admin_email: String,
    pub admin_password: SecretString,
}

/// A first administrator that can be made.
#[derive(Debug, Clone)]
pub struct FirstAdministrator {
    pub username: Username,
    pub email: Email,
    pub password: SecretString,
}

impl Bootstrap {
    /// Whom to make; nobody if the section is empty.
    ///
    /// # Errors
    /// A name or an address that a user could not have either, or one of the three missing.
    pub fn administrator(&self) -> anyhow::Result<Option<FirstAdministrator>> {
        let password = self.admin_password.expose_secret();
        if self.admin_username.is_empty() && self.admin_email.is_empty() && password.is_empty() {
            return Ok(None);
        }
        anyhow::ensure!(!password.is_empty(), "configuration key `bootstrap.admin_password` is empty");
        let named = |key: &'static str| move |error| anyhow::anyhow!("configuration key `bootstrap.{key}`: {error}");
        Ok(Some(FirstAdministrator {
            username: Username::try_from(self.admin_username.clone()).map_err(named("admin_username"))?,
            email: Email::try_from(self.admin_email.clone()).map_err(named("admin_email"))?,
            password: self.admin_password.clone(),
        }))
    }
}
