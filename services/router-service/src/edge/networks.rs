//! Who may come, by address.

use std::net::IpAddr;

use ipnet::IpNet;
use kronos_common::problem::{FieldError, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Networks of one list.
const MOST: usize = 256;

/// Addresses that a route takes: networks such as `10.0.0.0/8`, or single addresses. What is denied stays denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Networks {
    /// Only these; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256, example = json!(["10.0.0.0/8"]))]
    pub allow: Vec<String>,
    /// Not these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub deny: Vec<String>,
}

/// The same, parsed.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Networks {
    pub(super) fn check(&self, errors: &mut Vec<FieldError>) {
        for (name, list) in [("allow", &self.allow), ("deny", &self.deny)] {
            if list.len() > MOST {
                errors.push(FieldError::new(format!("/networks/{name}"), "too_many", format!("at most {MOST}")));
            }
            for (index, text) in list.iter().enumerate().filter(|(_, text)| parse(text).is_none()) {
                let detail = format!("`{text}` is no network: write 10.0.0.0/8 or 2001:db8::/32");
                errors.push(FieldError::new(format!("/networks/{name}/{index}"), "invalid_network", detail));
            }
        }
    }

    pub(super) fn compile(&self) -> Compiled {
        let parsed = |list: &[String]| list.iter().filter_map(|text| parse(text)).collect();
        Compiled { allow: parsed(&self.allow), deny: parsed(&self.deny) }
    }
}

impl Compiled {
    /// Of the gateway's configuration; `None`: everybody may come.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Option<Self> {
        let made = Self { allow: allow.to_vec(), deny: deny.to_vec() };
        (!made.allow.is_empty() || !made.deny.is_empty()).then_some(made)
    }

    pub fn takes(&self, address: IpAddr) -> bool {
        let within = |list: &[IpNet]| list.iter().any(|network| network.contains(&address));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }

    /// # Errors
    /// 403 `address_denied`.
    pub fn admit(&self, address: IpAddr) -> Result<(), Problem> {
        if self.takes(address) {
            return Ok(());
        }
        Err(Problem::new(
            http::StatusCode::FORBIDDEN,
            "address_denied",
            "requests from your address are not taken here",
        ))
    }
}

fn parse(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
