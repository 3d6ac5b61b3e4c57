//! Header and path hygiene: what is refused, what is removed, what is added. No decision here depends on a route.

use std::{
    borrow::Cow,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use kronos_common::{identity::Claims, problem::Problem, trace::TraceContext};
use uuid::Builder;

use crate::{origin::Origin, request_log::write_hex};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest path with its query, in bytes.
const LONGEST_TARGET: usize = 8192;

/// Refuses what no honest client sends, or what two servers could read in two ways (RFC 9112 sections 3.2 and 6.1). The
/// request's host comes back; only HTTP/1.0 may go without.
///
/// # Errors
/// 400 `invalid_host`, 405, 414 `target_too_long`, 431 `headers_too_large`.
pub fn check(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    most_bytes: usize,
    most: usize,
) -> Result<Option<HeaderValue>, Problem> {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > most_bytes || headers.len() > most {
        let detail = format!("at most {most} header lines and {most_bytes} bytes of them are taken");
        return Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail));
    }
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > LONGEST_TARGET) {
        let detail = format!("path and query have at most {LONGEST_TARGET} bytes");
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "target_too_long", detail));
    }
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        let detail = format!("{method} is not possible here");
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
            .with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Problem::bad_request("invalid_host", "send exactly one Host header"));
    }
    let authority = uri.authority().map(http::uri::Authority::as_str);
    match (host, authority) {
        (None, None) if version == Version::HTTP_10 => return Ok(None),
        (None, None) => return Err(Problem::bad_request("invalid_host", "send exactly one Host header")),
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            return Err(Problem::bad_request("invalid_host", "the Host header names another host than the target"));
        }
        _ => {}
    }
    let host = match (host, authority) {
        (Some(host), _) => host.clone(),
        (None, authority) => HeaderValue::try_from(authority.unwrap_or_default())
            .map_err(|_| Problem::bad_request("invalid_host", "the host is not valid"))?,
    };
    if !is_plain_host(host.as_bytes()) {
        let valid = host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok());
        if valid.is_none_or(|authority| authority.as_str().contains('@') || authority.host().is_empty()) {
            return Err(Problem::bad_request("invalid_host", "the Host header is not a host"));
        }
    }
    Ok(Some(host))
}

/// A name and perhaps a port, as nearly all are: nothing to take apart.
fn is_plain_host(host: &[u8]) -> bool {
    let colon = memchr::memchr(b':', host).unwrap_or(host.len());
    let (name, port) = host.split_at(colon);
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        && (port.is_empty() || (2..=5).contains(&port.len()) && port[1..].iter().all(u8::is_ascii_digit))
}

/// The path in the form in which it is matched and sent on: escapes of plain characters undone (RFC 3986 section 6.2.2), so
/// that no spelling slips past a route.
///
/// # Errors
/// 400 `invalid_path`: dot segments, plain or escaped, broken escapes, control characters, backslashes.
pub fn normal_path(path: &str) -> Result<Cow<'_, str>, Problem> {
    let invalid = |detail| Err(Problem::bad_request("invalid_path", detail));
    if !path.starts_with('/') {
        return invalid("the path must begin with `/`");
    }
    if path.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'\\') {
        return invalid("the path holds a character that must be escaped");
    }
    let path = if path.contains('%') {
        match unescape(path) {
            Some(path) => Cow::Owned(path),
            None => return invalid("the path holds a broken or forbidden escape"),
        }
    } else {
        Cow::Borrowed(path)
    };
    if path.contains("/.") && path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return invalid("the path holds `.` or `..`: resolve them first");
    }
    Ok(path)
}

/// Undoes the escapes of unreserved characters and writes the others in upper case.
fn unescape(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        let digits = escape.get(1..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        match byte {
            b'-' | b'.' | b'_' | b'~' => plain.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => plain.push(char::from(byte)),
            0..0x20 | 0x7f | b'\\' => return None,
            _ => {
                plain.push('%');
                plain.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = &escape[3..];
    }
    plain.push_str(rest);
    Some(plain)
}

/// The client's own request id if it is a decent one, else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let decent = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=128).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
    };
    let mut sent = headers.get_all(X_REQUEST_ID).iter();
    match (sent.next().filter(decent), sent.next()) {
        (Some(id), None) => id.clone(),
        _ => {
            let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
            // Not `now_v7`, whose counter all cores would share.
            let id = Builder::from_unix_timestamp_millis(u64::try_from(now).unwrap_or(0), &rand::random()).into_uuid();
            HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).expect("a UUID is visible ASCII")
        }
    }
}

/// A request as it goes to an instance, but for the instance and what frames the body.
#[derive(Debug)]
pub struct Outgoing<'a> {
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    /// As the client sent them.
    pub headers: &'a HeaderMap,
    /// The protocol to change to.
    pub upgrade: Option<&'a HeaderValue>,
    pub origin: &'a Origin,
    pub host: Option<&'a HeaderValue>,
    pub request_id: &'a HeaderValue,
    pub trace: &'a TraceContext,
    /// The caller's trace state belongs to a trace that was taken up.
    pub keeps_trace: bool,
    pub subject: Option<&'a Claims>,
    /// How they showed it, if not by a token alone.
    pub way: Option<&'static str>,
}

impl Outgoing<'_> {
    /// Writes the request line and the headers.
    pub fn write(&self, out: &mut Vec<u8>, authority: &str) {
        for part in [self.method.as_str(), " ", self.target, " HTTP/1.1\r\nhost: ", authority, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.tell(|name, value| {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        });
        if let Some(protocol) = self.upgrade {
            for part in [b"connection: upgrade\r\nupgrade: ", protocol.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }

    /// The same for a client that frames by itself, without asking for an upgrade.
    ///
    /// # Errors
    /// A target or header that is none: it never is, for it was read from one.
    pub fn build(&self, scheme: &str, authority: &str) -> http::Result<http::Request<()>> {
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(self.target).build()?;
        let mut request = http::Request::builder().method(self.method.clone()).uri(uri).body(())?;
        let headers = request.headers_mut();
        self.tell(|name, value| {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        });
        Ok(request)
    }

    /// Says every header: the client's without what ends at this hop (RFC 9110 section 7.6.1) and without any copy of what
    /// only the gateway may say, and then what the gateway says.
    fn tell(&self, mut line: impl FnMut(&str, &[u8])) {
        let named = named_by_connection(self.headers);
        let mut cookies = 0;
        for (name, value) in self.headers {
            if *name == header::COOKIE {
                cookies += 1;
            } else if !ends_here(name) && !named.contains(name) && (self.keeps_trace || *name != TRACESTATE) {
                line(name.as_str(), value.as_bytes());
            }
        }
        if cookies > 0 && !named.contains(&header::COOKIE) {
            // HTTP/2 cuts it into several lines, HTTP/1.1 has one (RFC 9113 section 8.2.3).
            let mut parts = self.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
            match (parts.next(), cookies) {
                (Some(only), 1) => line("cookie", only),
                (first, _) => line("cookie", &first.into_iter().chain(parts).collect::<Vec<_>>().join(&b"; "[..])),
            }
        }
        line("x-forwarded-for", self.origin.chain.as_bytes());
        line("x-forwarded-proto", if self.origin.is_https { b"https" } else { b"http" });
        if let Some(host) = self.host {
            line("x-forwarded-host", host.as_bytes());
        }
        line("x-request-id", self.request_id.as_bytes());
        let mut trace = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut trace[3..35], self.trace.trace_id);
        write_hex(&mut trace[36..52], self.trace.span_id.into());
        trace[54] += u8::from(self.trace.sampled);
        line("traceparent", &trace);
        if let Some(claims) = self.subject {
            for (name, text) in [("x-kronos-subject", &claims.sub), ("x-kronos-client", &claims.client_id)] {
                if text.bytes().all(|byte| byte >= b' ' && byte != 0x7f) {
                    line(name, text.as_bytes());
                }
            }
        }
        if let Some(way) = self.way {
            line("x-kronos-authentication", way.as_bytes());
        }
        let wants_trailers = self.headers.get_all(header::TE).iter().any(|value| {
            value
                .to_str()
                .is_ok_and(|text| text.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
        });
        if wants_trailers {
            line("te", b"trailers");
        }
    }
}

/// What is between the client and the gateway, or what the gateway alone may say. Names with `_` too: some servers read them
/// as `-`.
pub fn ends_here(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "connection"
            | "content-length"
            | "expect"
            | "forwarded"
            | "host"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "traceparent"
            | "transfer-encoding"
            | "upgrade"
            | "x-request-id"
    ) || (name.starts_with("x-") && ["x-forwarded", "x-kronos-", "x-real-ip"].iter().any(|bad| name.starts_with(bad)))
        || name.contains('_')
}

/// Headers that `Connection` declares to end at this hop.
pub fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|text| text.split(',').map(str::trim))
        .filter(|token| !["close", "keep-alive", "upgrade"].iter().any(|plain| token.eq_ignore_ascii_case(plain)))
        .filter_map(|token| HeaderName::try_from(token).ok())
        .collect()
}

/// Whether `Connection` names an upgrade.
pub fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
    })
}

/// The protocol that a client wants to change to, if it says so in a way that may be passed on.
pub fn wanted_upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !asks_for_upgrade(headers) {
        return None;
    }
    let protocol = headers.get(header::UPGRADE)?;
    // Not h2c: a change of protocol must not hide requests from the gateway.
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket").then(|| protocol.clone())
}
