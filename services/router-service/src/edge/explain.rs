//! What the policies at the edge would say of a described request, for `POST /routes/explain`.

use std::net::IpAddr;

use http::{HeaderMap, Method, Uri};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Edge, cors::Cors, filter::Looked, filter::Mode, header_rules::HeaderRules, security_headers::SecurityHeaders,
};
use crate::{condition::Asked, table::Route};

/// A route's policies at the edge, and what they make of the request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AtEdge {
    /// Whether the route's `networks` take the described address; absent: it names none, or no address was described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_taken: Option<bool>,
    /// Where the client is sent, instead of an instance being asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirects_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderRules>,
    pub security_headers: SecurityHeaders,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// What the filter finds, but for the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Found>,
}

/// What a filter finds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    pub mode: Mode,
    pub threshold: u32,
    pub score: u32,
    /// The rules that match.
    pub rules: Vec<String>,
    /// Whether the request would be refused.
    pub refused: bool,
}

impl AtEdge {
    /// Looks at a described request; `path` is in normal form.
    pub fn of(
        route: &Route,
        method: &Method,
        path: &str,
        uri: &Uri,
        asked: &Asked<'_>,
        address: Option<IpAddr>,
    ) -> Self {
        let spec = &route.spec;
        let edge = route.edge.as_deref();
        Self {
            address_taken: edge
                .and_then(|edge| edge.networks.as_ref())
                .and_then(|networks| address.map(|address| networks.takes(address.to_canonical()))),
            redirects_to: edge
                .and_then(|edge| edge.redirect.as_ref())
                .and_then(|redirect| redirect.location(asked.host, path, uri.query())),
            headers: spec.headers.clone(),
            security_headers: spec.security_headers,
            cors: spec.cors.clone(),
            filter: edge.and_then(|edge| found(edge, method, path, uri, asked.headers)),
        }
    }
}

fn found(edge: &Edge, method: &Method, path: &str, uri: &Uri, headers: &HeaderMap) -> Option<Found> {
    let filter = edge.filter.as_ref()?;
    let finding = filter.look(&Looked { method, path, query: uri.query(), headers, body: b"" });
    Some(Found {
        mode: filter.mode,
        threshold: filter.threshold,
        score: finding.score,
        refused: finding.score >= filter.threshold && filter.mode == Mode::Block,
        rules: finding.rules.into_iter().map(str::to_owned).collect(),
    })
}
