//! The client of auth-service, which keeps the passwords under the names that are decided here.

use std::time::Duration;

use anyhow::Context as _;
use kronos_common::{
    identity::{Client, ClientError, ServiceToken},
    problem::{Problem, ProblemBody, Result},
    service::Context,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::{config, users::User};

const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Credentials(Client);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Credential<'a> {
    username: &'a str,
    email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
}

impl Credentials {
    pub(crate) fn new(config: &config::Services, token: ServiceToken, context: &Context) -> anyhow::Result<Self> {
        let client = Client::new(&config.auth_url, token, context).context("configuration key `services.auth_url`")?;
        Ok(Self(client.with_deadline(Duration::from_millis(config.auth_deadline_ms))))
    }

    /// For what else is asked of auth-service.
    pub(crate) fn client(&self) -> Client {
        self.0.clone()
    }

    /// Tells the user's names, and the password if there is a new one.
    ///
    /// # Errors
    /// 422 for a password that auth-service refuses, in its words; 503 while it does not answer.
    pub(crate) async fn put(&self, user: &User, password: Option<&SecretString>) -> Result<()> {
        let credential = Credential {
            username: &user.username,
            email: &user.email,
            password: password.map(|password| password.expose_secret()),
        };
        self.0.put(&format!("/auth/credentials/{}", user.id), &credential).await.map_err(problem)
    }
}

fn problem(error: ClientError) -> Problem {
    match &error {
        ClientError::Status { problem: Some(body), status, .. } if status.as_u16() == 422 => refused(body, &error),
        _ if error.is_away() => Problem::unavailable("credential store", RETRY_AFTER).caused_by(error),
        _ => Problem::internal(error),
    }
}

/// Only what it says of the password is the caller's business; the rest was ours to get right.
fn refused(body: &ProblemBody, error: &ClientError) -> Problem {
    let of_password: Vec<_> = body.errors.iter().filter(|field| field.pointer == "/password").cloned().collect();
    if of_password.is_empty() {
        Problem::internal(anyhow::anyhow!("{error}: {}", body.detail))
    } else {
        Problem::invalid(of_password)
    }
}
