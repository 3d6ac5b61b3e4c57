//! The path that an instance sees, where a route changes it. No I/O.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::route::PathMatch;

/// How a route changes the path; the query stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Rewrite {
    /// Stands in place of the matched prefix: `/v2` makes `/robots/7` of `/api/robots/7`, where `/api` is matched, `/v2/robots/7`.
    Prefix(String),
    /// The whole path; `{name}` stands for what the matched template's `{name}` took.
    Path(String),
}

impl Rewrite {
    /// The new path for one that `matched` took.
    pub fn apply(&self, matched: &PathMatch, path: &str) -> String {
        match (self, matched) {
            (Self::Prefix(new), PathMatch::Prefix(old)) => {
                let rest = path.strip_prefix(old.trim_end_matches('/')).unwrap_or(path);
                let new = format!("{}{rest}", new.trim_end_matches('/'));
                if new.starts_with('/') { new } else { format!("/{new}") }
            }
            (Self::Path(new), PathMatch::Template(template)) => {
                let taken: Vec<(&str, &str)> = template.split('/').zip(path.split('/')).collect();
                let mut made = String::with_capacity(new.len() + path.len());
                for segment in new.split('/').skip(1) {
                    let value = taken.iter().find(|(name, _)| is_parameter(segment) && *name == segment);
                    let _ = write!(made, "/{}", value.map_or(segment, |(_, value)| value));
                }
                made
            }
            (Self::Path(new) | Self::Prefix(new), _) => new.clone(),
        }
    }
}

/// Whether a template's segment is `{name}`.
pub fn is_parameter(segment: &str) -> bool {
    segment.len() > 2 && segment.starts_with('{') && segment.ends_with('}')
}
