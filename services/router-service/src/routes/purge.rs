//! `POST /routes/purge`: makes the gateways forget kept answers.

use axum::{extract::State, http::StatusCode};
use kronos_common::{
    extract::Json,
    identity::Allowed,
    problem::{FieldError, Problem, ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{CanWriteRoutes, refusals::ToWriters};
use crate::{App, cache::keep::Kept, route::Name};

/// Names in one call.
const MOST: usize = 256;

/// What to forget: all that is named.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Purge {
    /// Answers that had one of these in `Cache-Tags`.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub tags: Vec<String>,
    /// Answers of these URLs, as clients ask for them: `http://host/path?query`.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub urls: Vec<String>,
    /// Answers of these routes.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub routes: Vec<Name>,
}

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(purge))
}

/// Forgets kept answers: here before this is answered, at the other gateways within a second.
#[utoipa::path(
    post, path = "/routes/purge", tag = "router-service", security(("bearer" = [])), request_body = Purge,
    responses(
        (status = 204),
        ToWriters,
        (status = 503, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn purge(State(app): State<App>, _: Allowed<CanWriteRoutes>, Json(purge): Json<Purge>) -> Result<StatusCode> {
    let all = purge.read()?;
    app.kept.purge(&all).await.map_err(|error| {
        tracing::warn!(error = format!("{error:#}"), "answers could not be purged");
        Problem::unavailable("cache store", std::time::Duration::from_secs(1))
    })?;
    Ok(StatusCode::NO_CONTENT)
}

impl Purge {
    fn read(self) -> Result<Vec<String>> {
        let Self { tags, urls, routes } = self;
        let mut errors = Vec::new();
        for (index, tag) in tags.iter().enumerate() {
            let plain = tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
            if !(1..=128).contains(&tag.len()) || !plain {
                let detail = "1 to 128 visible characters without a comma";
                errors.push(FieldError::new(format!("/tags/{index}"), "invalid", detail));
            }
        }
        for (index, url) in urls.iter().enumerate() {
            let read = url::Url::parse(url);
            if url.len() > 8192 || !read.is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
                let detail = "write it as http://host/path?query";
                errors.push(FieldError::new(format!("/urls/{index}"), "invalid", detail));
            }
        }
        let count = tags.len() + urls.len() + routes.len();
        if !(1..=MOST).contains(&count) {
            errors.push(FieldError::new("", "invalid", format!("name 1 to {MOST} tags, URLs or routes")));
        }
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        let urls = urls.iter().map(|url| Kept::tag_of_key(url));
        let routes = routes.iter().map(|route| Kept::tag_of_route(route.as_str()));
        Ok(tags.into_iter().chain(urls).chain(routes).collect())
    }
}
