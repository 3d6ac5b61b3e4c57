//! What an upstream is, on the wire and in the table: its types and the rules that it must keep by itself. The policies are
//! each in a file of its own.

use http::uri::Authority;
use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    balance::{HashBy, Method},
    breaker::BreakerSpec,
    concurrency::MaxConcurrent,
    health::HealthCheckSpec,
    outlier::OutlierSpec,
    route::Name,
};

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceSpec {
    /// `http://host:port`, or `https://host:port`.
    #[schema(min_length = 8, max_length = 300, pattern = "^https?://[^/?#@]+/?$", example = "http://127.0.0.1:9000")]
    pub url: String,
    /// Its part of the requests, relative to the others'; 0: none. Default: 1.
    #[serde(default = "one")]
    #[schema(minimum = 0, maximum = 1000)]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// How instances are spoken to. With an `https://` URL all of it goes through TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, from the first byte (RFC 9113 section 3.3): gRPC inside a network.
    H2c,
    /// HTTP/2, chosen in the TLS handshake: needs `https://`.
    H2,
}

/// An upstream as a caller writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamSpec {
    pub name: Name,
    /// How its instances are spoken to. Default: `http1`.
    #[serde(default)]
    pub protocol: Protocol,
    #[schema(min_items = 1, max_items = 256)]
    pub instances: Vec<InstanceSpec>,
    /// How an instance is chosen. Default: `p2c`.
    #[serde(default)]
    pub balance: Method,
    /// What `"balance": "hash"` looks at. Default: `"ip"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashBy>,
    /// An instance that is new, or back, gets its whole share only after so long, in milliseconds. Absent: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub slow_start_ms: Option<u64>,
    /// Absent: what requests tell is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
    /// Absent: as the gateway's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierSpec>,
    /// Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerSpec>,
    /// Requests under way at each gateway: a number, or bounds for one that follows the latency. Absent: unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<MaxConcurrent>,
}

impl UpstreamSpec {
    /// An upstream with no policy.
    pub fn new(name: Name, instances: Vec<InstanceSpec>) -> Self {
        Self {
            name,
            protocol: Protocol::default(),
            instances,
            balance: Method::default(),
            hash: None,
            slow_start_ms: None,
            health_check: None,
            outlier: None,
            breaker: None,
            max_concurrent: None,
        }
    }

    /// Everything that is wrong with this upstream.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !(1..=256).contains(&self.instances.len()) {
            errors.push(FieldError::new("/instances", "invalid", "from 1 to 256 instances"));
        }
        let mut known = std::collections::HashSet::new();
        for (index, instance) in self.instances.iter().enumerate() {
            match Address::read(&instance.url) {
                Err(detail) => errors.push(FieldError::new(format!("/instances/{index}/url"), "invalid_url", detail)),
                Ok(address) if !known.insert(address.authority.as_str().to_ascii_lowercase()) => {
                    let detail = "this instance is named twice";
                    errors.push(FieldError::new(format!("/instances/{index}/url"), "duplicate", detail));
                }
                Ok(address) => {
                    let detail = match (self.protocol, address.is_tls) {
                        (Protocol::H2, false) => {
                            Some("`h2` is chosen in the TLS handshake: write https://, or use `h2c`")
                        }
                        (Protocol::H2c, true) => Some("`h2c` goes without TLS: write http://, or use `h2`"),
                        _ => None,
                    };
                    let pointer = format!("/instances/{index}/url");
                    errors.extend(detail.map(|detail| FieldError::new(pointer, "wrong_scheme", detail)));
                }
            }
            if instance.weight > 1000 {
                errors.push(FieldError::new(format!("/instances/{index}/weight"), "out_of_range", "from 0 to 1000"));
            }
        }
        match &self.hash {
            Some(_) if self.balance != Method::Hash => {
                errors.push(FieldError::new("/hash", "needs_balance", "only `\"balance\": \"hash\"` looks at it"));
            }
            Some(hash) => hash.check(&mut errors),
            None => {}
        }
        if self.slow_start_ms.is_some_and(|time| !(1..=3_600_000).contains(&time)) {
            errors.push(FieldError::new("/slowStartMs", "out_of_range", "from 1 to 3600000"));
        }
        if let Some(health_check) = &self.health_check {
            health_check.check(&mut errors);
        }
        if let Some(outlier) = &self.outlier {
            outlier.check(&mut errors);
        }
        if let Some(breaker) = &self.breaker {
            breaker.check(&mut errors);
        }
        if let Some(max_concurrent) = &self.max_concurrent {
            max_concurrent.check(&mut errors);
        }
        errors
    }
}

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub authority: Authority,
    /// Spoken to through TLS.
    pub is_tls: bool,
}

impl Address {
    /// Reads an instance's URL.
    ///
    /// # Errors
    /// What to change.
    pub fn read(url: &str) -> Result<Self, &'static str> {
        const FORM: &str = "write it as http://host:port or https://host:port, without a path";
        let uri: http::Uri = url.parse().map_err(|_| FORM)?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("only http:// and https:// are spoken to instances"),
        };
        let authority = uri.authority().ok_or(FORM)?;
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        if url.len() <= 300 && plain && matches!(uri.path(), "" | "/") && uri.query().is_none() && !url.contains('#') {
            Ok(Self { authority: authority.clone(), is_tls })
        } else {
            Err(FORM)
        }
    }
}
