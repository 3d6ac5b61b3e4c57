//! Headers that a route adds, sets and removes, on the way in and on the way out. What only the gateway may say, and what frames
//! a message, can't be touched.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::headers;

/// Names in one list.
const MOST: usize = 32;

/// Names, and values where there are some.
type Entries<'a> = Vec<(&'a String, Option<&'a String>)>;

/// What a route does to headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderRules {
    /// On the way to the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Changes>,
    /// On the way to the client; errors of the gateway too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Changes>,
}

/// In this order: removed, set, added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Changes {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub remove: Vec<String>,
    /// In place of whatever was there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Beside whatever is there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
}

/// The same, parsed.
#[derive(Debug)]
pub struct Compiled {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderRules {
    pub(super) fn check(&self, errors: &mut Vec<FieldError>) {
        if let Some(changes) = &self.request {
            changes.check("request", headers::ends_here, errors);
        }
        if let Some(changes) = &self.response {
            changes.check("response", is_framing, errors);
        }
    }
}

impl Changes {
    fn check(&self, side: &str, is_refused: fn(&HeaderName) -> bool, errors: &mut Vec<FieldError>) {
        let lists: [(&str, Entries<'_>); 3] = [
            ("remove", self.remove.iter().map(|name| (name, None)).collect()),
            ("set", self.set.iter().map(|(name, value)| (name, Some(value))).collect()),
            ("add", self.add.iter().map(|(name, value)| (name, Some(value))).collect()),
        ];
        for (list, entries) in lists {
            let mut wrong = |name: &str, code, detail: String| {
                errors.push(FieldError::new(format!("/headers/{side}/{list}{name}"), code, detail));
            };
            if entries.len() > MOST {
                wrong("", "too_many", format!("at most {MOST}"));
            }
            for (name, value) in entries {
                let place = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                match HeaderName::try_from(name) {
                    Err(_) => wrong(&place, "invalid", format!("`{name}` is no header's name")),
                    Ok(known) if is_refused(&known) => {
                        wrong(&place, "reserved", format!("`{name}` is for the gateway alone to say"));
                    }
                    Ok(_) if value.is_some_and(|value| HeaderValue::try_from(value).is_err()) => {
                        wrong(
                            &place,
                            "invalid",
                            format!("the value of `{name}` has a character that no header may have"),
                        );
                    }
                    Ok(_) => {}
                }
            }
        }
    }

    pub(super) fn compile(&self) -> Compiled {
        let pairs = |map: &BTreeMap<String, String>| {
            map.iter()
                .filter_map(|(name, value)| {
                    Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
                })
                .collect()
        };
        let remove = self.remove.iter().filter_map(|name| HeaderName::try_from(name).ok()).collect();
        Compiled { remove, set: pairs(&self.set), add: pairs(&self.add) }
    }
}

impl Compiled {
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// As [`apply`](Self::apply), to a request: what the client's `Connection` names is removed first, so that it can't name
    /// what is said here.
    pub fn apply_to_request(&self, headers: &mut HeaderMap) {
        for name in headers::named_by_connection(headers) {
            headers.remove(name);
        }
        let upgrades = headers::asks_for_upgrade(headers);
        headers.remove(header::CONNECTION);
        if upgrades {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        self.apply(headers);
    }
}

/// What frames an answer, or names it.
fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "x-request-id"
    ) || name.as_str().starts_with("ratelimit")
}
