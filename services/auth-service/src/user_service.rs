//! Asks user-service what a user may do, with a deadline; keeps the answers, and goes by the last one while it is away.

use std::time::Duration;

use anyhow::Context as _;
use axum::http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use kronos_common::{
    identity::{Client, ClientError, ServiceToken},
    problem::Problem,
    service,
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use url::form_urlencoded;
use uuid::Uuid;

use crate::{
    config,
    decision::{Decision, judge_last_known},
    grants::{Grants, KnownGrants},
    store,
    tokens::Issuer,
};

/// What a caller is told to wait when the rights cannot be known.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The client of user-service; cheap to clone.
#[derive(Clone)]
pub(crate) struct UserService {
    client: Client,
    pool: PgPool,
}

/// Who somebody is, as user-service has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profile {
    pub username: String,
    pub email: String,
    pub display_name: String,
    pub updated_at: DateTime<Utc>,
}

/// What became of a person to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    User(Uuid),
    UsernameTaken,
    EmailTaken,
}

/// What is known of a user's rights.
#[derive(Debug)]
pub(crate) enum Rights {
    /// user-service said so just now.
    Live(Grants),
    /// It does not answer; this it said before.
    LastKnown(KnownGrants),
    /// It says that there is no such user.
    Gone,
    /// It does not answer, and never said anything of this user that still holds.
    Unknown,
}

impl Rights {
    /// The rights to put in a token; nothing if the user must not have one.
    ///
    /// # Errors
    /// 503 if they cannot be known now.
    pub(crate) fn usable(self, now: DateTime<Utc>) -> Result<Option<Grants>, Problem> {
        match self {
            Self::Live(grants) => Ok(Some(grants).filter(|grants| !grants.disabled)),
            Self::LastKnown(known) if known.disabled => Ok(None),
            Self::LastKnown(known) if !known.is_outdated(now) => Ok(Some(known.into())),
            Self::Gone => Ok(None),
            Self::LastKnown(_) | Self::Unknown => Err(Problem::unavailable("user administration", RETRY_AFTER)),
        }
    }
}

impl UserService {
    /// A client that calls under this service's own, self-signed token.
    ///
    /// # Errors
    /// A URL that is none.
    pub(crate) fn new(
        config: &config::Services,
        issuer: Issuer,
        pool: PgPool,
        context: &service::Context,
    ) -> anyhow::Result<Self> {
        let token = ServiceToken::own(move || {
            let issuer = issuer.clone();
            Box::pin(async move {
                let issued = issuer.issue_own(Utc::now());
                Ok((issued.token, Duration::from_secs(issued.expires_in.unsigned_abs())))
            })
        });
        let client = Client::new(&config.user_url, token, context)
            .context("configuration key `services.user_url`")?
            .with_deadline(Duration::from_millis(config.user_deadline_ms));
        Ok(Self { client, pool })
    }

    /// For what else is asked of user-service.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Makes a person. The same `key` makes one person, however often it is asked.
    ///
    /// # Errors
    /// 503 while user-service does not answer; 422 if it likes a field less than we do.
    pub(crate) async fn create(
        &self,
        key: Uuid,
        username: &str,
        email: &str,
        display_name: &str,
    ) -> Result<Made, Problem> {
        #[derive(Deserialize)]
        struct User {
            id: Uuid,
        }

        let body = json!({ "username": username, "email": email, "displayName": display_name }).to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Another name under the same link is another request.
        let key = format!("{key}-{}", URL_SAFE_NO_PAD.encode(&Sha256::digest(username)[..8]));
        headers.insert("idempotency-key", HeaderValue::from_str(&key).map_err(Problem::internal)?);
        match self.client.send(Method::POST, "/users", Some(body.into_bytes().into()), &headers).await {
            Ok(answer) => {
                serde_json::from_slice::<User>(&answer.body).map(|user| Made::User(user.id)).map_err(Problem::internal)
            }
            Err(error) if error.code() == Some("username_taken") => Ok(Made::UsernameTaken),
            Err(error) if error.code() == Some("email_taken") => Ok(Made::EmailTaken),
            Err(ClientError::Status { status, problem: Some(problem), .. }) if status.as_u16() == 422 => {
                Err(Problem::invalid(problem.errors))
            }
            Err(error) => {
                log_absence(&error);
                Err(Problem::unavailable("user administration", RETRY_AFTER))
            }
        }
    }

    /// The user's grants, from user-service alone: `None` if there is no such user.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub(crate) async fn grants(&self, user_id: Uuid) -> Result<Option<Grants>, ClientError> {
        match self.client.get::<Grants>(&format!("/users/{user_id}/grants")).await {
            Ok(grants) => Ok(Some(grants)),
            Err(error) if error.status().is_some_and(|status| status.as_u16() == 404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Who the user is; `None` if there is no such user.
    ///
    /// # Errors
    /// 503 if user-service does not answer: nothing of this is kept here.
    pub(crate) async fn profile(&self, user_id: Uuid) -> Result<Option<Profile>, Problem> {
        match self.client.get::<Profile>(&format!("/users/{user_id}")).await {
            Ok(profile) => Ok(Some(profile)),
            Err(error) if error.status().is_some_and(|status| status.as_u16() == 404) => Ok(None),
            Err(error) => {
                log_absence(&error);
                Err(Problem::unavailable("user administration", RETRY_AFTER))
            }
        }
    }

    /// The user's rights, live or as last known.
    ///
    /// # Errors
    /// The database.
    pub(crate) async fn rights(&self, user_id: Uuid) -> Result<Rights, Problem> {
        match self.grants(user_id).await {
            Ok(Some(grants)) => {
                store::grants::save(&self.pool, &grants, Utc::now()).await?;
                Ok(Rights::Live(grants))
            }
            Ok(None) => Ok(Rights::Gone),
            Err(error) => {
                log_absence(&error);
                let known = store::grants::find(&self.pool, user_id).await?;
                Ok(known.map_or(Rights::Unknown, Rights::LastKnown))
            }
        }
    }

    /// Whether the user may, and why, as of `min_epoch` or later; says so if it is judged by what was last known.
    ///
    /// # Errors
    /// The database.
    pub(crate) async fn check(
        &self,
        user_id: Uuid,
        permission: &str,
        resource: Option<&str>,
        min_epoch: Option<i64>,
    ) -> Result<Decision, Problem> {
        let path = format!("/users/{user_id}/access?{}", access_query(permission, resource, min_epoch));
        match self.client.get::<Decision>(&path).await {
            Ok(decision) => Ok(decision),
            Err(error) if error.status().is_some_and(|status| status.as_u16() == 404) => {
                Ok(Decision::deny("there is no such user"))
            }
            // It knows better what a resource can be named.
            Err(ClientError::Status { status, problem: Some(problem), .. }) if matches!(status.as_u16(), 400 | 422) => {
                Err(Problem::field("", "invalid", problem.detail))
            }
            Err(error) => {
                log_absence(&error);
                let known = store::grants::find(&self.pool, user_id).await?;
                match (&known, min_epoch) {
                    (Some(known), Some(epoch)) if known.epoch < epoch => {
                        let why = "what was last known of the user's rights may be older than that epoch";
                        Ok(Decision::deny(why).noting("user-service does not answer"))
                    }
                    _ => Ok(judge_last_known(known.as_ref(), permission, resource, Utc::now())),
                }
            }
        }
    }
}

fn access_query(permission: &str, resource: Option<&str>, min_epoch: Option<i64>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("permission", permission);
    if let Some(resource) = resource {
        query.append_pair("resource", resource);
    }
    if let Some(epoch) = min_epoch {
        query.append_pair("minEpoch", &epoch.to_string());
    }
    query.finish()
}

fn log_absence(error: &ClientError) {
    // Away is expected and degrades; anything else is a mistake of configuration or contract.
    let text = format!("{:#}", anyhow::anyhow!("{error}"));
    if error.is_away() {
        tracing::warn!(error = text, "user-service does not answer, going by what was last known");
    } else {
        tracing::error!(error = text, "user-service answers unexpectedly, going by what was last known");
    }
}
