//! What a route is, on the wire and in the table: its types and the rules that one route must keep by itself. Rules between
//! routes are `table`'s; upstreams are `upstream_spec`'s.

use std::collections::BTreeMap;

use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::authentication::Authentication;
use crate::{
    asynchronous::AsyncSpec,
    cache::CacheSpec,
    canary::CanarySpec,
    edge::{
        self, cors::Cors, filter::Filter, header_rules::HeaderRules, networks::Networks, redirect::Redirect,
        security_headers::SecurityHeaders,
    },
    mirror::MirrorSpec,
    rewrite::{Rewrite, is_parameter},
    scope::{self, Scope},
};

/// Paths that the gateway answers itself, before any route.
pub const OWN_PATHS: [&str; 5] = ["/routes", "/upstreams", "/quotas", "/openapi.json", "/docs"];

/// A route's or an upstream's name: lower case letters, digits, `.`, `_`, `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]*$", example = "robots")]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = text.bytes().next().is_some_and(plain);
        if first && text.len() <= 63 && text.bytes().all(|byte| plain(byte) || b"._-".contains(&byte)) {
            Ok(Self(text))
        } else {
            Err("1 to 63 lower case letters, digits, `.`, `_` or `-`, the first a letter or digit")
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// What a path must be for a route to take it. A prefix matches whole segments: `/users` takes `/users/7`, not `/usersx`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// The path and everything below it.
    Prefix(String),
    /// This path only.
    Exact(String),
    /// Paths of this form; a segment `{name}` takes any one segment.
    Template(String),
}

impl PathMatch {
    pub fn text(&self) -> &str {
        match self {
            Self::Prefix(path) | Self::Exact(path) | Self::Template(path) => path,
        }
    }

    /// The same for all that take the same paths: parameters without their names.
    pub fn shape(&self) -> (&'static str, String) {
        match self {
            Self::Prefix(path) => ("prefix", path.clone()),
            Self::Exact(path) => ("exact", path.clone()),
            Self::Template(path) => {
                let segment = |segment| if is_parameter(segment) { "{}" } else { segment };
                ("template", path.split('/').map(segment).collect::<Vec<_>>().join("/"))
            }
        }
    }
}

/// A request method that a route can be limited to; `GET` includes `HEAD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    pub const ALL: [Self; 7] = [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

/// Which requests a route takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// A host without its port, or `*.example.com` for all below it. Absent: every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 253, example = "api.example.com")]
    pub host: Option<String>,
    pub path: PathMatch,
    /// Absent: every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 7)]
    pub methods: Option<Vec<Method>>,
    /// Header values that a request must have; `*` is any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Query parameters that a request must have; `*` is any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
}

impl Match {
    /// Takes every request with such a path.
    pub fn path(path: PathMatch) -> Self {
        Self { host: None, path, methods: None, headers: BTreeMap::new(), query: BTreeMap::new() }
    }
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum By {
    /// The client's address; an IPv6 address counts with its whole /64.
    Ip,
    /// The token's subject, so that a new token is no new allowance; without a token the address.
    Token,
    /// The token's client, whoever uses it; without a token the address.
    Client,
    /// The route: with nothing else, all its requests together.
    Route,
}

/// At most `requests` in `perSeconds`, for each of what `by` names (for each combination, if it names several).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    #[schema(min_items = 1, max_items = 4)]
    pub by: Vec<By>,
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub requests: u32,
    #[schema(minimum = 1, maximum = 86_400)]
    pub per_seconds: u32,
    /// At most so many in one go; the others must come at the limit's pace. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub burst: Option<u32>,
}

fn only_jwt() -> Vec<Authentication> {
    vec![Authentication::Jwt]
}

/// A route as a caller writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSpec {
    pub name: Name,
    #[serde(rename = "match")]
    pub matches: Match,
    /// The upstream's name. A route with `redirect` needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Name>,
    /// Another path for the instance than the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// One of them is enough; default: `["jwt"]`.
    #[serde(default = "only_jwt")]
    #[schema(min_items = 1, max_items = 5)]
    pub authentication: Vec<Authentication>,
    /// All of them must be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub limits: Vec<Limit>,
    /// Of the routes that match, the highest priority wins; then the most specific. Default: 0.
    #[serde(default)]
    #[schema(minimum = -1000, maximum = 1000)]
    pub priority: i32,
    /// What the token must grant, such as `robots:read`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 3, max_length = 100, pattern = "^[a-z0-9-]+:[a-z0-9-]+$")]
    pub permission: Option<String>,
    /// What the token's `scope` must name, all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub scopes: Vec<Scope>,
    /// Longest wait for the head of the answer after the request was sent, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub timeout_ms: Option<u64>,
    /// Largest request body, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1_099_511_627_776_u64)]
    pub body_limit_bytes: Option<u64>,
    /// Further instances that a request may be sent to when one fails, if that is safe and the upstream's budget has it.
    /// Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 5)]
    pub retries: Option<u32>,
    /// A second instance is asked when the first has not answered after so long, in milliseconds, and the first answer
    /// counts: only for GET, HEAD, PUT, DELETE and OPTIONS without a body, within the upstream's retry budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60_000)]
    pub hedge_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorSpec>,
    /// Which answers are kept. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSpec>,
    /// The request is accepted with a 202, and passed on later. Absent: the client waits.
    #[serde(default, rename = "async", skip_serializing_if = "Option::is_none")]
    pub asynchronous: Option<AsyncSpec>,
    /// The client is sent elsewhere; no instance is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Headers that are added, set and removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderRules>,
    /// Headers of answers that protect browsers.
    #[serde(default)]
    pub security_headers: SecurityHeaders,
    /// Which pages of other origins may use it. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Addresses that it takes. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Networks>,
    /// Requests that look like attacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

impl RouteSpec {
    /// A route that names nothing else.
    pub fn new(name: Name, matches: Match, upstream: Name) -> Self {
        Self {
            name,
            matches,
            upstream: Some(upstream),
            rewrite: None,
            authentication: only_jwt(),
            limits: Vec::new(),
            priority: 0,
            permission: None,
            scopes: Vec::new(),
            timeout_ms: None,
            body_limit_bytes: None,
            retries: None,
            hedge_after_ms: None,
            canary: None,
            mirror: None,
            cache: None,
            asynchronous: None,
            redirect: None,
            headers: None,
            security_headers: SecurityHeaders::Default,
            cors: None,
            networks: None,
            filter: None,
        }
    }

    /// Everything that is wrong with this route alone.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut wrong = |pointer: &str, code, detail: String| errors.push(FieldError::new(pointer, code, detail));
        let (field, path) = match &self.matches.path {
            PathMatch::Prefix(path) => ("/match/path/prefix", path),
            PathMatch::Exact(path) => ("/match/path/exact", path),
            PathMatch::Template(path) => ("/match/path/template", path),
        };
        let checked = match &self.matches.path {
            PathMatch::Template(path) => check_template(path),
            PathMatch::Prefix(path) | PathMatch::Exact(path) => check_path(path),
        };
        if let Err(detail) = checked {
            wrong(field, "invalid_path", detail.to_owned());
        } else if let Some(own) = OWN_PATHS.iter().find(|own| covers(own, path)) {
            wrong(field, "reserved", format!("{own} is the gateway's own"));
        }
        if self.matches.host.as_ref().is_some_and(|host| !is_host_pattern(host)) {
            wrong("/match/host", "invalid", "write it as `example.com` or `*.example.com`, in lower case".to_owned());
        }
        if self.matches.headers.len() > 8 || self.matches.query.len() > 8 {
            wrong("/match", "too_many", "at most 8 headers and 8 query parameters".to_owned());
        }
        for (name, value) in &self.matches.headers {
            if http::HeaderName::try_from(name).is_err() || http::HeaderValue::try_from(value).is_err() {
                wrong("/match/headers", "invalid", format!("`{name}` and its value are no header"));
            }
        }
        if self.upstream.is_none() && self.redirect.is_none() {
            wrong("/upstream", "required", "name the upstream, or `redirect` where the client is sent".to_owned());
        }
        if let Some(rewrite) = &self.rewrite {
            self.check_rewrite(rewrite, &mut wrong);
        }
        if self.matches.methods.as_ref().is_some_and(|methods| has_twins_or_none(methods)) {
            wrong("/match/methods", "invalid", "name at least one method, each once".to_owned());
        }
        if has_twins_or_none(&self.authentication) {
            wrong("/authentication", "invalid", "name at least one way, each once".to_owned());
        }
        if !(-1000..=1000).contains(&self.priority) {
            wrong("/priority", "out_of_range", "from -1000 to 1000".to_owned());
        }
        if let Some(permission) = &self.permission {
            let word = |text: &str| {
                !text.is_empty()
                    && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            };
            if permission.len() > 100 || !permission.split_once(':').is_some_and(|(a, b)| word(a) && word(b)) {
                wrong("/permission", "invalid", "write it as `resource:action`".to_owned());
            }
            if !self.authentication.iter().all(|way| way.has_permissions()) {
                let detail = "a permission can only be asked where `authentication` is `jwt`, `apiKey` or both";
                wrong("/permission", "needs_token", detail.to_owned());
            }
        }
        if !self.scopes.is_empty() {
            scope::check(&self.scopes, &self.authentication, &mut wrong);
        }
        if self.timeout_ms.is_some_and(|timeout| !(1..=3_600_000).contains(&timeout)) {
            wrong("/timeoutMs", "out_of_range", "from 1 to 3600000".to_owned());
        }
        if self.body_limit_bytes.is_some_and(|limit| limit > 1 << 40) {
            wrong("/bodyLimitBytes", "out_of_range", "at most 1099511627776".to_owned());
        }
        if self.retries.is_some_and(|retries| retries > 5) {
            wrong("/retries", "out_of_range", "from 0 to 5".to_owned());
        }
        if self.hedge_after_ms.is_some_and(|time| !(1..=60_000).contains(&time)) {
            wrong("/hedgeAfterMs", "out_of_range", "from 1 to 60000".to_owned());
        }
        if let Some(canary) = &self.canary {
            canary.check(&mut wrong);
        }
        if let Some(mirror) = &self.mirror {
            mirror.check(&mut wrong);
        }
        if let Some(cache) = &self.cache {
            cache.check(&mut wrong);
            if self.mirror.is_some() {
                wrong("/mirror", "not_with_cache", "a kept answer leaves nothing to copy: choose one".to_owned());
            }
        }
        if let Some(asynchronous) = &self.asynchronous {
            asynchronous.check(self, &mut wrong);
        }
        if self.limits.len() > 8 {
            wrong("/limits", "too_many", "at most 8".to_owned());
        }
        for (index, limit) in self.limits.iter().enumerate() {
            if has_twins_or_none(&limit.by) {
                wrong(&format!("/limits/{index}/by"), "invalid", "name at least one, each once".to_owned());
            }
            if !(1..=1_000_000).contains(&limit.requests) {
                wrong(&format!("/limits/{index}/requests"), "out_of_range", "from 1 to 1000000".to_owned());
            }
            if limit.burst.is_some_and(|burst| !(1..=limit.requests).contains(&burst)) {
                wrong(&format!("/limits/{index}/burst"), "out_of_range", "from 1 to `requests`".to_owned());
            }
            if !(1..=86_400).contains(&limit.per_seconds) {
                wrong(&format!("/limits/{index}/perSeconds"), "out_of_range", "from 1 to 86400".to_owned());
            }
        }
        edge::check(self, &mut errors);
        errors
    }
}

impl RouteSpec {
    /// Every upstream that it names, and where.
    pub fn upstreams(&self) -> impl Iterator<Item = (&'static str, &Name)> {
        let canary = self.canary.as_ref().map(|canary| ("/canary/upstream", &canary.upstream));
        let mirror = self.mirror.as_ref().map(|mirror| ("/mirror/upstream", &mirror.upstream));
        self.upstream.iter().map(|upstream| ("/upstream", upstream)).chain(canary).chain(mirror)
    }

    fn check_rewrite(&self, rewrite: &Rewrite, wrong: &mut impl FnMut(&str, &'static str, String)) {
        match (rewrite, &self.matches.path) {
            (Rewrite::Prefix(new), PathMatch::Prefix(_)) => {
                if let Err(detail) = check_path(new) {
                    wrong("/rewrite/prefix", "invalid_path", detail.to_owned());
                }
            }
            (Rewrite::Prefix(_), _) => {
                wrong("/rewrite/prefix", "needs_prefix", "only a matched prefix can be replaced".to_owned());
            }
            (Rewrite::Path(new), matched) => {
                if let Err(detail) = check_template(new) {
                    wrong("/rewrite/path", "invalid_path", detail.to_owned());
                }
                let known: Vec<&str> = match matched {
                    PathMatch::Template(template) => template.split('/').collect(),
                    PathMatch::Prefix(_) | PathMatch::Exact(_) => Vec::new(),
                };
                for segment in new.split('/').filter(|segment| is_parameter(segment) && !known.contains(segment)) {
                    wrong("/rewrite/path", "unknown_parameter", format!("the matched path has no {segment}"));
                }
            }
        }
    }
}

/// Whether `prefix` covers `path` by whole segments.
pub fn covers(prefix: &str, path: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') || path.len() > 512 {
        return Err("begin it with `/`, at most 512 characters");
    }
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)) {
        return Err("write it plainly: letters, digits and -._~!$&'()*+,;=:@, no escapes and no query");
    }
    let mut segments = path[1..].split('/');
    if path != "/" && segments.any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("no empty segment, no `.` or `..`, no `/` at the end");
    }
    Ok(())
}

/// A path whose segments may be `{name}`, each name once.
fn check_template(template: &str) -> Result<(), &'static str> {
    let parameters: Vec<&str> = template.split('/').filter(|segment| is_parameter(segment)).collect();
    let word = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if parameters.iter().any(|parameter| !word(&parameter[1..parameter.len() - 1])) {
        return Err("a parameter is a whole segment: `{name}` of letters, digits and `_`");
    }
    if !parameters.is_empty() && has_twins_or_none(&parameters) {
        return Err("each parameter has a name of its own");
    }
    let plain: Vec<&str> =
        template.split('/').map(|segment| if is_parameter(segment) { "x" } else { segment }).collect();
    check_path(&plain.join("/"))
}

fn is_host_pattern(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    !name.is_empty()
        && host.len() <= 253
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
}

fn has_twins_or_none<T: PartialEq>(list: &[T]) -> bool {
    list.is_empty() || list.iter().enumerate().any(|(index, item)| list[..index].contains(item))
}
