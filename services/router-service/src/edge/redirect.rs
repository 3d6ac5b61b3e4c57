//! Routes that send the client elsewhere instead of asking an instance.

use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{rewrite::is_parameter, route::PathMatch};

/// Where a request is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308 (RFC 9110 section 15.4). Default: 308, which keeps method and body, for good.
    #[serde(default = "permanent")]
    #[schema(minimum = 301, maximum = 308)]
    pub status: u16,
    /// A path or an `https://` or `http://` address. `{host}` stands for the request's host without its port, `{path}` for its
    /// path, `{rest}` for what follows the matched prefix, `{name}` for what the matched template's `{name}` took.
    #[schema(min_length = 1, max_length = 2048, example = "https://www.example.com{path}")]
    pub location: String,
    /// Whether the request's query goes along. Default: true.
    #[serde(default = "yes")]
    pub keep_query: bool,
}

fn permanent() -> u16 {
    308
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Host,
    Path,
    Rest,
    /// The segment of this index.
    Segment(usize),
}

/// The same, ready to use.
#[derive(Debug)]
pub struct Compiled {
    pub status: http::StatusCode,
    parts: Vec<Part>,
    prefix: Box<str>,
    keep_query: bool,
}

impl Redirect {
    pub(super) fn check(&self, matched: &PathMatch, errors: &mut Vec<FieldError>) {
        if !matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            errors.push(FieldError::new("/redirect/status", "out_of_range", "301, 302, 303, 307 or 308"));
        }
        if let Err(detail) = self.parts(matched) {
            errors.push(FieldError::new("/redirect/location", "invalid", detail));
        }
    }

    pub(super) fn compile(&self, matched: &PathMatch) -> Result<Compiled, &'static str> {
        let prefix = match matched {
            PathMatch::Prefix(path) => path.trim_end_matches('/').into(),
            PathMatch::Exact(_) | PathMatch::Template(_) => Box::default(),
        };
        let status = http::StatusCode::from_u16(self.status).map_err(|_| "not a status")?;
        Ok(Compiled { status, parts: self.parts(matched)?, prefix, keep_query: self.keep_query })
    }

    fn parts(&self, matched: &PathMatch) -> Result<Vec<Part>, &'static str> {
        let mut parts = Vec::new();
        let mut rest = self.location.as_str();
        while let Some(begin) = rest.find('{') {
            let (text, from) = rest.split_at(begin);
            let end = from.find('}').ok_or("a `{` has no `}`")?;
            if !text.is_empty() {
                parts.push(Part::Text(text.into()));
            }
            let name = &from[..=end];
            parts.push(match (name, matched) {
                ("{host}", _) => Part::Host,
                ("{path}", _) => Part::Path,
                ("{rest}", PathMatch::Prefix(_)) => Part::Rest,
                ("{rest}", _) => return Err("`{rest}` needs a matched prefix"),
                (name, PathMatch::Template(template)) if is_parameter(name) => {
                    let index = template.split('/').position(|segment| segment == name);
                    Part::Segment(index.ok_or("it names a parameter that the matched path has not")?)
                }
                _ => return Err("it names a parameter that the matched path has not"),
            });
            rest = &from[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        check_form(&self.location, &parts)?;
        Ok(parts)
    }
}

/// Whatever a request says must not choose the host: only `{host}`, which is the request's own, may stand for one.
fn check_form(location: &str, parts: &[Part]) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\\\"<>^`|#".contains(&byte);
    if location.is_empty() || location.len() > 2048 || !location.bytes().all(plain) {
        return Err("1 to 2048 visible characters, without a fragment");
    }
    let after = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://"));
    let Some(after) = after else {
        let is_path = location.starts_with('/') && !location.starts_with("//");
        return if is_path || matches!(parts.first(), Some(Part::Path | Part::Rest)) {
            Ok(())
        } else {
            Err("begin it with `/`, `{path}`, `{rest}`, `https://` or `http://`")
        };
    };
    let ends = ["/", "?", "{path}", "{rest}"].iter().filter_map(|end| after.find(end)).min();
    let authority = &after[..ends.unwrap_or(after.len())];
    let named = authority.parse::<http::uri::Authority>().is_ok_and(|known| !known.as_str().contains('@'));
    if authority == "{host}" || (named && !authority.contains('{')) {
        Ok(())
    } else {
        Err("after `https://` write a host, or `{host}`")
    }
}

impl Compiled {
    /// The location for a request whose path is in normal form; `None` if it needs a host and there is none.
    pub fn location(&self, host: Option<&str>, path: &str, query: Option<&str>) -> Option<String> {
        let mut made = String::with_capacity(path.len() + 64);
        for part in &self.parts {
            match part {
                Part::Text(text) => made.push_str(text),
                Part::Host => made.push_str(name_of(host?)?),
                Part::Path => made.push_str(path),
                Part::Rest => made.push_str(path.strip_prefix(&*self.prefix).unwrap_or(path)),
                Part::Segment(index) => made.push_str(path.split('/').nth(*index).unwrap_or_default()),
            }
        }
        // `//host/` would be another host's address.
        let slashes = made.bytes().take_while(|byte| *byte == b'/').count();
        if slashes > 1 {
            made.drain(..slashes - 1);
        }
        if made.is_empty() {
            made.push('/');
        }
        if let Some(query) = query.filter(|query| self.keep_query && !query.is_empty()) {
            made.push(if made.contains('?') { '&' } else { '?' });
            made.push_str(query);
        }
        Some(made)
    }
}

/// A `Host` without its port, if it is written plainly.
fn name_of(host: &str) -> Option<&str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}
