//! What RFC 9111 says about storing and reusing answers, for a shared cache. No I/O; `now` is in seconds of Unix time.

use chrono::DateTime;
use http::{HeaderMap, HeaderName, StatusCode, header};

use super::{CacheSpec, LONGEST_S};

/// `Cache-Control`, as far as a shared cache looks at it (section 5.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Directives {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
}

impl Directives {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        for directive in values.flat_map(|value| value.split(',')) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            // What is no number means no time (section 4.2.1); what is too large, very long.
            let seconds = || {
                let text = value.trim().trim_matches('"');
                let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                Some(if is_number { text.parse().unwrap_or(u64::MAX) } else { 0 })
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => found.no_store = true,
                "no-cache" => found.no_cache = true,
                "private" => found.private = true,
                "public" => found.public = true,
                "must-revalidate" | "proxy-revalidate" => found.must_revalidate = true,
                "only-if-cached" => found.only_if_cached = true,
                "max-age" => found.max_age = found.max_age.or_else(seconds),
                "s-maxage" => found.s_maxage = found.s_maxage.or_else(seconds),
                "stale-while-revalidate" => found.stale_while_revalidate = seconds(),
                "stale-if-error" => found.stale_if_error = seconds(),
                _ => {}
            }
        }
        // HTTP/1.0's way to say it (section 5.4).
        if !headers.contains_key(header::CACHE_CONTROL) {
            let old =
                headers.get(header::PRAGMA).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no-cache"));
            found.no_cache |= old;
        }
        found
    }
}

/// How long an answer may be given, in seconds from its birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Fresh for so long.
    pub fresh: u64,
    /// And then, while a new one is fetched.
    pub while_revalidate: u64,
    /// And then, when the upstream fails.
    pub if_error: u64,
}

impl Times {
    /// When it is of no use any more; a validator makes it useful a while longer.
    pub fn end(&self, has_validator: bool) -> u64 {
        let more = self.while_revalidate.max(self.if_error).max(if has_validator { 3600 } else { 0 });
        self.fresh.saturating_add(more).min(2 * LONGEST_S)
    }
}

/// For how long an answer to a GET may be kept; `None`: not at all (sections 3 and 4.2.1). `is_private`: the request said who
/// asks.
pub fn times(status: StatusCode, headers: &HeaderMap, spec: &CacheSpec, is_private: bool, now: u64) -> Option<Times> {
    let says = Directives::of(headers);
    let understood = matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501);
    let varies = headers.get_all(header::VARY).iter().any(|value| value.as_bytes().contains(&b'*'));
    let is_stream =
        headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    if !understood || says.no_store || says.private || varies || is_stream || headers.contains_key(header::SET_COOKIE) {
        return None;
    }
    // What was asked with credentials is for others only if it says so (section 3.5).
    if is_private && !(says.public || says.s_maxage.is_some() || says.must_revalidate) {
        return None;
    }
    let explicit = says.s_maxage.or(says.max_age).or_else(|| expires(headers, now));
    let fresh = if says.no_cache { 0 } else { explicit.unwrap_or(spec.default_seconds).min(LONGEST_S) };
    // `s-maxage` forbids stale answers as well (section 5.2.2.10), but not those that the answer itself allows.
    let strict = says.must_revalidate || says.no_cache;
    let stale = |said: Option<u64>, default| match said {
        _ if strict => 0,
        Some(said) => said.min(LONGEST_S),
        None if says.s_maxage.is_some() => 0,
        None => default,
    };
    let times = Times {
        fresh,
        while_revalidate: stale(says.stale_while_revalidate, spec.stale_while_revalidate_seconds),
        if_error: stale(says.stale_if_error, spec.stale_if_error_seconds),
    };
    let is_of_use = fresh > 0 || ((explicit.is_some() || says.no_cache) && has_validator(headers));
    is_of_use.then_some(times)
}

pub fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}

/// What is not a date means that it is stale already (section 5.3).
fn expires(headers: &HeaderMap, now: u64) -> Option<u64> {
    headers.get(header::EXPIRES)?;
    let expires = date(headers, &header::EXPIRES).unwrap_or(0);
    Some(expires.saturating_sub(date(headers, &header::DATE).unwrap_or(now)))
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    u64::try_from(DateTime::parse_from_rfc2822(text).ok()?.timestamp()).ok()
}

/// How old an answer is when it comes (section 4.2.3).
pub fn initial_age(headers: &HeaderMap, now: u64) -> u64 {
    let said = headers.get(header::AGE).and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
    let apparent = date(headers, &header::DATE).map_or(0, |date| now.saturating_sub(date));
    said.max(apparent)
}

/// Whether a client's own copy is the same, so that it is told so and not sent again (RFC 9110 section 13.2.2).
pub fn is_unchanged(asked: &HeaderMap, kept: &HeaderMap) -> bool {
    let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let mut tags = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).peekable();
    if tags.peek().is_some() {
        let own = kept.get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(weak);
        return tags.flat_map(|tags| tags.split(',')).any(|tag| tag.trim() == "*" || Some(weak(tag)) == own);
    }
    match (date(asked, &header::IF_MODIFIED_SINCE), date(kept, &header::LAST_MODIFIED)) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}
