//! A part of a route's requests for another upstream: the policy `canary`. The same caller gets the same one, at every
//! gateway, and keeps it when the part grows.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{hash, route::Name, table::Upstream};

/// A part of the requests for another upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CanarySpec {
    /// The other upstream's name.
    pub upstream: Name,
    /// So many of a hundred callers. Default: 0.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 100)]
    pub percent: u32,
    /// Requests with this header go there whatever the percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<CanaryHeader>,
    /// What makes a caller. Default: `subject`.
    #[serde(default)]
    pub sticky_by: StickyBy,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CanaryHeader {
    #[schema(min_length = 1, max_length = 100, example = "x-canary")]
    pub name: String,
    #[schema(min_length = 1, max_length = 200, example = "always")]
    pub value: String,
}

/// What makes a caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum StickyBy {
    /// The token's subject; without a token the address.
    #[default]
    Subject,
    /// The address.
    Ip,
}

impl CanarySpec {
    /// Everything that is wrong with it.
    pub fn check(&self, wrong: &mut impl FnMut(&str, &'static str, String)) {
        if self.percent > 100 {
            wrong("/canary/percent", "out_of_range", "from 0 to 100".to_owned());
        }
        if let Some(CanaryHeader { name, value }) = &self.header {
            if name.len() > 100 || HeaderName::try_from(name).is_err() {
                wrong("/canary/header/name", "invalid", "this is no header's name".to_owned());
            }
            if value.is_empty() || value.len() > 200 || HeaderValue::try_from(value).is_err() {
                wrong("/canary/header/value", "invalid", "this is no header's value".to_owned());
            }
        }
    }
}

/// The policy, compiled.
#[derive(Debug)]
pub struct Canary {
    pub upstream: Arc<Upstream>,
    pub spec: CanarySpec,
    header: Option<(HeaderName, Box<[u8]>)>,
    /// So that not the same callers are the first in every route.
    seed: u64,
}

impl Canary {
    /// `route`: its name.
    pub fn new(spec: &CanarySpec, upstream: Arc<Upstream>, route: &str) -> Self {
        let header = spec
            .header
            .as_ref()
            .and_then(|CanaryHeader { name, value }| Some((HeaderName::try_from(name).ok()?, value.as_bytes().into())));
        Self { upstream, spec: spec.clone(), header, seed: hash::of(route.as_bytes()) }
    }

    /// Whether a request goes there.
    pub fn takes(&self, headers: &HeaderMap, subject: Option<&str>, address: IpAddr) -> bool {
        if let Some((name, value)) = &self.header
            && headers.get_all(name).iter().any(|sent| sent.as_bytes() == &**value)
        {
            return true;
        }
        if self.spec.percent == 0 {
            return false;
        }
        let caller = match (self.spec.sticky_by, subject, address) {
            (StickyBy::Subject, Some(subject), _) => hash::of(subject.as_bytes()),
            (_, _, IpAddr::V4(address)) => hash::of(&address.octets()),
            (_, _, IpAddr::V6(address)) => hash::of(&address.octets()),
        };
        hash::unit(hash::pair(self.seed, caller)) * 100.0 <= f64::from(self.spec.percent)
    }
}
