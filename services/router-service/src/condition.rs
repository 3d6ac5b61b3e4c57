//! What a route asks of a request beside path and method: its host, headers and query. No I/O.

use http::{HeaderMap, HeaderName};

use crate::route::Match;

/// Stands for "any value" in a header or query condition.
pub const ANY: &str = "*";

/// A request, as far as conditions look at it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// With or without a port.
    pub host: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub query: Option<&'a str>,
}

/// A route's conditions, compiled.
#[derive(Debug)]
pub struct Conditions {
    host: Option<Host>,
    headers: Vec<(HeaderName, Box<str>)>,
    query: Vec<(Box<str>, Box<str>)>,
}

#[derive(Debug)]
enum Host {
    Exact(Box<str>),
    /// Everything below it: `.example.com`.
    Below(Box<str>),
}

impl Conditions {
    /// `None`: the route takes every host, header and query.
    pub fn compile(matches: &Match) -> Option<Box<Self>> {
        if matches.host.is_none() && matches.headers.is_empty() && matches.query.is_empty() {
            return None;
        }
        let host = matches.host.as_deref().map(|host| match host.strip_prefix('*') {
            Some(below) => Host::Below(below.into()),
            None => Host::Exact(host.into()),
        });
        let headers = matches.headers.iter();
        let headers = headers.filter_map(|(name, value)| Some((name.parse().ok()?, value.as_str().into()))).collect();
        let query = matches.query.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
        Some(Box::new(Self { host, headers, query }))
    }

    /// Whether the request keeps all of them.
    pub fn hold(&self, asked: &Asked<'_>) -> bool {
        self.broken(asked).is_none()
    }

    /// The first that the request does not keep: `host`, `header NAME` or `query NAME`.
    pub fn broken(&self, asked: &Asked<'_>) -> Option<String> {
        if self.host.as_ref().is_some_and(|host| !host.takes(asked.host)) {
            return Some("host".to_owned());
        }
        for (name, wanted) in &self.headers {
            let mut values = asked.headers.get_all(name).iter();
            if !values.any(|value| **wanted == *ANY || value.as_bytes() == wanted.as_bytes()) {
                return Some(format!("header {name}"));
            }
        }
        for (name, wanted) in &self.query {
            let mut pairs = url::form_urlencoded::parse(asked.query.unwrap_or_default().as_bytes());
            if !pairs.any(|(key, value)| *key == **name && (**wanted == *ANY || *value == **wanted)) {
                return Some(format!("query {name}"));
            }
        }
        None
    }
}

impl Host {
    fn takes(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => name,
            _ => host,
        };
        match self {
            Self::Exact(wanted) => name.eq_ignore_ascii_case(wanted),
            Self::Below(below) => {
                name.len() > below.len() && {
                    let (_, end) = name.split_at_checked(name.len() - below.len()).unwrap_or_default();
                    end.eq_ignore_ascii_case(below)
                }
            }
        }
    }
}
