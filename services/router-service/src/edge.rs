//! What a route does at the edge beside limits and tokens: who may come by address, answers to preflights, redirects, the
//! filter, and the headers that go on and come back. Compiled once per table; a route that names none of it has no [`Edge`]
//! and pays one branch.

pub mod cors;
pub mod explain;
pub mod filter;
pub mod header_rules;
pub mod networks;
pub mod redirect;
pub mod security_headers;

use http::{HeaderMap, HeaderValue};
use kronos_common::problem::FieldError;

use crate::route::RouteSpec;

/// Everything that is wrong with a route's policies at the edge.
pub fn check(spec: &RouteSpec, errors: &mut Vec<FieldError>) {
    if let Some(redirect) = &spec.redirect {
        redirect.check(&spec.matches.path, errors);
    }
    if let Some(headers) = &spec.headers {
        headers.check(errors);
    }
    if let Some(cors) = &spec.cors {
        cors.check(errors);
    }
    if let Some(networks) = &spec.networks {
        networks.check(errors);
    }
    if let Some(filter) = &spec.filter {
        filter.check(errors);
    }
}

/// A route's policies at the edge, ready to use.
#[derive(Debug)]
pub struct Edge {
    pub networks: Option<networks::Compiled>,
    pub cors: Option<cors::Compiled>,
    pub redirect: Option<redirect::Compiled>,
    pub filter: Option<filter::Compiled>,
    pub request_headers: Option<header_rules::Compiled>,
    response_headers: Option<header_rules::Compiled>,
    security_headers: security_headers::SecurityHeaders,
}

impl Edge {
    /// `None`: the route names nothing of this. The route was checked before.
    pub fn compile(spec: &RouteSpec) -> Option<Box<Self>> {
        let headers = spec.headers.as_ref();
        let edge = Self {
            networks: spec.networks.as_ref().map(networks::Networks::compile),
            cors: spec.cors.as_ref().map(cors::Cors::compile),
            redirect: spec.redirect.as_ref().and_then(|redirect| redirect.compile(&spec.matches.path).ok()),
            filter: spec.filter.as_ref().and_then(|filter| filter.compile().ok()),
            request_headers: headers.and_then(|rules| rules.request.as_ref()).map(header_rules::Changes::compile),
            response_headers: headers.and_then(|rules| rules.response.as_ref()).map(header_rules::Changes::compile),
            security_headers: spec.security_headers,
        };
        let is_plain = edge.networks.is_none()
            && edge.cors.is_none()
            && edge.redirect.is_none()
            && edge.filter.is_none()
            && edge.request_headers.is_none()
            && edge.response_headers.is_none()
            && edge.security_headers == security_headers::SecurityHeaders::Default;
        (!is_plain).then(|| Box::new(edge))
    }

    /// Dresses an answer: what protects browsers, what the route says, and who of another origin may read it.
    pub fn dress(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>, is_https: bool) {
        self.security_headers.apply(headers, is_https);
        if let Some(rules) = &self.response_headers {
            rules.apply(headers);
        }
        if let Some(cors) = &self.cors {
            cors.dress(headers, origin);
        }
    }
}
