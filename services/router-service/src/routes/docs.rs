//! `/openapi.json`, the documents of all services in one, and `/docs`, a page to browse it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderValue, Request, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::future::join_all;
use kronos_common::problem::{Problem, Result};
use serde_json::Value;
use tokio::sync::Mutex;
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;

use crate::{App, live::Live, openapi};

/// One service has so long to give its document.
const PATIENCE: Duration = Duration::from_secs(2);
/// A larger document is not taken.
const LARGEST: usize = 8 << 20;
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page and what it loads; nothing comes from elsewhere. Not in the OpenAPI document.
pub fn router() -> OpenApiRouter<App> {
    let file = |content_type: &'static str, text: &'static str| {
        get(async move || {
            let headers = [
                (header::CONTENT_TYPE, content_type),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, text)
        })
    };
    OpenApiRouter::new()
        .route("/docs", file("text/html; charset=utf-8", include_str!("../docs/index.html")))
        .route("/docs/page.js", file("text/javascript; charset=utf-8", include_str!("../docs/page.js")))
        .route("/docs/page.css", file("text/css; charset=utf-8", include_str!("../docs/page.css")))
}

/// The merged document, made at most once in a while, by one request for all that wait.
pub struct Documents {
    live: Arc<Live>,
    /// The gateway's own endpoints with their own document.
    own: axum::Router,
    client: reqwest::Client,
    services: Vec<&'static str>,
    keep: Duration,
    kept: Mutex<Option<(Instant, Merged)>>,
}

#[derive(Clone)]
struct Merged {
    document: Bytes,
    /// Services that did not give theirs.
    missing: String,
}

impl Documents {
    pub fn new(
        live: Arc<Live>,
        own: axum::Router,
        client: reqwest::Client,
        services: Vec<&'static str>,
        keep: Duration,
    ) -> Self {
        Self { live, own, client, services, keep, kept: Mutex::default() }
    }

    /// The answer to `GET /openapi.json`.
    ///
    /// # Errors
    /// The gateway's own document can't be made.
    pub async fn answer(&self) -> Result<Response> {
        let mut kept = self.kept.lock().await;
        let merged = match &*kept {
            Some((when, merged)) if when.elapsed() < self.keep => merged.clone(),
            _ => {
                let merged = self.merge().await?;
                *kept = Some((Instant::now(), merged.clone()));
                merged
            }
        };
        drop(kept);
        let mut response =
            ([(header::CONTENT_TYPE, "application/json")], [("cache-control", "no-cache")], merged.document)
                .into_response();
        if let Ok(missing) = HeaderValue::try_from(merged.missing)
            && !missing.is_empty()
        {
            response.headers_mut().insert("x-kronos-missing", missing);
        }
        Ok(response)
    }

    async fn merge(&self) -> Result<Merged> {
        let fetched = join_all(self.services.iter().map(|service| self.fetch(service))).await;
        let mut documents = vec![("router-service".to_owned(), self.own_document().await?)];
        let mut missing = Vec::new();
        for (service, document) in self.services.iter().zip(fetched) {
            match document {
                Ok(document) => documents.push(((*service).to_owned(), document)),
                Err(error) => {
                    tracing::debug!(service, error = format!("{error:#}"), "document is missing");
                    missing.push(*service);
                }
            }
        }
        let document = serde_json::to_vec(&openapi::merge(documents)).map_err(Problem::internal)?;
        Ok(Merged { document: document.into(), missing: missing.join(", ") })
    }

    async fn own_document(&self) -> Result<Value> {
        let request = Request::get("/openapi.json").body(Body::empty()).map_err(Problem::internal)?;
        let response = self.own.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let body = axum::body::to_bytes(response.into_body(), LARGEST).await.map_err(Problem::internal)?;
        serde_json::from_slice(&body).map_err(Problem::internal)
    }

    /// From the first instance that answers.
    async fn fetch(&self, service: &str) -> anyhow::Result<Value> {
        let upstream = self.live.table().upstream(service).cloned();
        let members = upstream.as_ref().map(|upstream| upstream.balancer.members.as_slice()).unwrap_or_default();
        let mut last = anyhow::anyhow!("there is no such upstream");
        for member in members.iter().take(3) {
            match self.fetch_from(&format!("{}/openapi.json", member.instance.url())).await {
                Ok(document) => return Ok(document),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn fetch_from(&self, url: &str) -> anyhow::Result<Value> {
        let mut response = self.client.get(url).timeout(PATIENCE).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            anyhow::ensure!(body.len() + chunk.len() <= LARGEST, "the document is too large");
            body.extend_from_slice(&chunk);
        }
        let document: Value = serde_json::from_slice(&body)?;
        anyhow::ensure!(document["paths"].is_object(), "the document has no paths");
        Ok(document)
    }
}
