//! `/logs/sources`: other systems whose log lines are part of every search.

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Path},
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::CanManageLogs;
use crate::{
    App,
    merge::OWN,
    store::{
        federated::token_use,
        sources::{self, SourceRow},
    },
};

const MAX_NAME_CHARS: usize = 63;
const MAX_URL_CHARS: usize = 500;
const MAX_TOKEN_CHARS: usize = 4096;

/// Where another system's log interface is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSource {
    /// `GET {url}/logs` is asked with the parameters of the search.
    url: SourceUrl,
    /// Sent as a bearer token; kept sealed, never shown. Absent: none, also if there was one.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 4096)]
    token: Option<SecretString>,
}

/// An `http` or `https` address without query, fragment and password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 500, pattern = "^https?://")]
pub(crate) struct SourceUrl(String);

impl TryFrom<String> for SourceUrl {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if text.chars().count() > MAX_URL_CHARS {
            return Err("at most 500 characters");
        }
        let url = Url::parse(&text).map_err(|_| "not a URL")?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err("an http or https URL with a host");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("no user and password: use token");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("no query and no fragment");
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// A registered source.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Source {
    name: String,
    url: String,
    has_token: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<SourceRow> for Source {
    fn from(row: SourceRow) -> Self {
        Self {
            name: row.name,
            url: row.url,
            has_token: row.token.is_some(),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// All registered sources; they are few.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sources {
    items: Vec<Source>,
    /// Always absent: there is one page.
    next_cursor: Option<String>,
}

/// List the sources
#[utoipa::path(
    get, path = "/logs/sources", tag = "log-service", security(("bearer" = [])),
    responses((status = 200, body = Sources), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn list_sources(State(app): State<App>, _: Allowed<CanManageLogs>) -> Result<Json<Sources>> {
    let rows = sources::all(&app.pool).await?;
    Ok(Json(Sources { items: rows.into_iter().map(Source::from).collect(), next_cursor: None }))
}

/// Show a source
#[utoipa::path(
    get, path = "/logs/sources/{name}", tag = "log-service", security(("bearer" = [])),
    params(("name" = String, Path, description = "lowercase letters, digits and `-`")),
    responses(
        (status = 200, body = Source), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody),
    )
)]
pub(crate) async fn get_source(
    State(app): State<App>,
    _: Allowed<CanManageLogs>,
    Path(name): Path<String>,
) -> Result<Json<Source>> {
    let row = sources::get(&app.pool, &name).await?;
    row.map(|row| Json(row.into())).ok_or_else(|| Problem::not_found("source"))
}

/// Register or replace a source
#[utoipa::path(
    put, path = "/logs/sources/{name}", tag = "log-service", security(("bearer" = [])),
    params(("name" = String, Path, description = "lowercase letters, digits and `-`")), request_body = NewSource,
    responses(
        (status = 200, body = Source), (status = 201, body = Source), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 413, body = ProblemBody),
        (status = 415, body = ProblemBody), (status = 422, body = ProblemBody),
    )
)]
pub(crate) async fn put_source(
    State(app): State<App>,
    _: Allowed<CanManageLogs>,
    Path(name): Path<String>,
    Json(new): Json<NewSource>,
) -> Result<(StatusCode, Json<Source>)> {
    check_name(&name)?;
    let token = new.token.map(|token| seal(&app, &name, &token)).transpose()?;
    let (row, inserted) = sources::put(&app.pool, &name, &new.url.0, token.as_deref()).await?;
    Ok((if inserted { StatusCode::CREATED } else { StatusCode::OK }, Json(row.into())))
}

/// Remove a source
#[utoipa::path(
    delete, path = "/logs/sources/{name}", tag = "log-service", security(("bearer" = [])),
    params(("name" = String, Path, description = "lowercase letters, digits and `-`")),
    responses(
        (status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody),
    )
)]
pub(crate) async fn delete_source(
    State(app): State<App>,
    _: Allowed<CanManageLogs>,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    if sources::delete(&app.pool, &name).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("source"))
    }
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=MAX_NAME_CHARS).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('-');
    if !good || name == OWN {
        let detail =
            "name: 1 to 63 lowercase letters, digits and `-`, beginning with a letter or digit, and not `kronos`";
        return Err(Problem::bad_request("invalid_path", detail));
    }
    Ok(())
}

fn seal(app: &App, name: &str, token: &SecretString) -> Result<Vec<u8>> {
    let token = token.expose_secret();
    let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.is_empty() || token.len() > MAX_TOKEN_CHARS || !visible {
        return Err(Problem::field("/token", "wrong_form", "1 to 4096 visible ASCII characters"));
    }
    match &app.finder.keyring {
        Some(keyring) => Ok(keyring.seal(token.as_bytes(), &token_use(name))),
        None => {
            let detail = "this installation has no sealing key, so it keeps no tokens: set `sealing` first";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_sealing_key", detail))
        }
    }
}
