//! Which pages of other origins may use a route (the Fetch standard's CORS protocol): preflights are answered at the edge, and
//! answers say who may read them.

use http::{HeaderMap, HeaderValue, Method, header};
use kronos_common::problem::{FieldError, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::route;

/// Entries of one list.
const MOST: usize = 64;

/// Who of other origins may use a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// `https://app.example.com`, `https://*.example.com` for all below it, or `*` for every origin.
    #[schema(min_items = 1, max_items = 64)]
    pub origins: Vec<String>,
    /// Absent: every method that the route takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 7)]
    pub methods: Option<Vec<route::Method>>,
    /// Headers that a page may send. Absent: every header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64)]
    pub headers: Option<Vec<String>>,
    /// Headers of answers that a page may read, beside the few that it always may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub expose_headers: Vec<String>,
    /// Whether cookies and HTTP authentication may come along. Default: false.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight. Default: 600.
    #[serde(default = "ten_minutes")]
    #[schema(maximum = 86_400)]
    pub max_age_seconds: u32,
}

fn ten_minutes() -> u32 {
    600
}

#[derive(Debug)]
enum Allowed {
    Any,
    Exact(Box<[u8]>),
    /// Scheme with `://`, and the end with its dot.
    Below(Box<[u8]>, Box<[u8]>),
}

/// The same, ready to use.
#[derive(Debug)]
pub struct Compiled {
    origins: Vec<Allowed>,
    methods: Option<(Vec<route::Method>, HeaderValue)>,
    headers: Option<Vec<Box<str>>>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
    takes_any: bool,
}

impl Cors {
    pub(super) fn check(&self, errors: &mut Vec<FieldError>) {
        let mut wrong = |pointer: &str, code, detail: &str| {
            errors.push(FieldError::new(format!("/cors{pointer}"), code, detail.to_owned()));
        };
        if !(1..=MOST).contains(&self.origins.len()) {
            wrong("/origins", "invalid", "from 1 to 64 origins");
        }
        for (index, _) in self.origins.iter().enumerate().filter(|(_, origin)| read(origin).is_none()) {
            let detail = "write it as `https://app.example.com`, `https://*.example.com` or `*`";
            wrong(&format!("/origins/{index}"), "invalid_origin", detail);
        }
        if self.credentials && self.origins.iter().any(|origin| origin == "*") {
            wrong("/credentials", "needs_origins", "name the origins that may send credentials");
        }
        if self.methods.as_ref().is_some_and(Vec::is_empty) {
            wrong("/methods", "invalid", "name at least one method");
        }
        for (name, list) in
            [("headers", self.headers.as_deref().unwrap_or_default()), ("exposeHeaders", &self.expose_headers)]
        {
            if list.len() > MOST {
                wrong(&format!("/{name}"), "too_many", "at most 64");
            }
            for (index, _) in list.iter().enumerate().filter(|(_, name)| http::HeaderName::try_from(*name).is_err()) {
                wrong(&format!("/{name}/{index}"), "invalid", "this is no header's name");
            }
        }
        if self.max_age_seconds > 86_400 {
            wrong("/maxAgeSeconds", "out_of_range", "from 0 to 86400");
        }
    }

    pub(super) fn compile(&self) -> Compiled {
        let list = |names: Vec<&str>| HeaderValue::try_from(names.join(", ")).ok();
        let methods = self
            .methods
            .as_ref()
            .and_then(|methods| Some((methods.clone(), list(methods.iter().map(|method| method.as_str()).collect())?)));
        let lower = |names: &Vec<String>| names.iter().map(|name| name.to_ascii_lowercase().into()).collect();
        let expose = (!self.expose_headers.is_empty())
            .then(|| list(self.expose_headers.iter().map(String::as_str).collect()))
            .flatten();
        let origins: Vec<Allowed> = self.origins.iter().filter_map(|origin| read(origin)).collect();
        Compiled {
            takes_any: origins.iter().any(|origin| matches!(origin, Allowed::Any)),
            origins,
            methods,
            headers: self.headers.as_ref().map(lower),
            expose,
            credentials: self.credentials,
            max_age: HeaderValue::from(self.max_age_seconds),
        }
    }
}

fn read(origin: &str) -> Option<Allowed> {
    if origin == "*" {
        return Some(Allowed::Any);
    }
    let (scheme, rest) = origin.split_once("://")?;
    let (below, host) = match rest.strip_prefix("*.") {
        Some(host) => (true, host),
        None => (false, rest),
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:[]".contains(&byte);
    if !matches!(scheme, "https" | "http") || host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
        return None;
    }
    Some(if below {
        Allowed::Below(format!("{scheme}://").into_bytes().into(), format!(".{host}").into_bytes().into())
    } else {
        Allowed::Exact(origin.as_bytes().into())
    })
}

impl Allowed {
    fn takes(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(known) => **known == *origin,
            Self::Below(scheme, end) => {
                let middle = origin.strip_prefix(&**scheme).and_then(|rest| rest.strip_suffix(&**end));
                let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(byte);
                middle.is_some_and(|middle| !middle.is_empty() && middle.iter().all(plain))
            }
        }
    }
}

/// The method that a preflight asks for; `None`: the request is none.
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(header::ORIGIN) {
        return None;
    }
    Method::from_bytes(headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

impl Compiled {
    fn takes(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|known| known.takes(origin.as_bytes()))
    }

    /// The headers of the answer to a preflight for `wanted`.
    ///
    /// # Errors
    /// 403 `cors_refused`, with what is not allowed.
    pub fn answer(&self, headers: &HeaderMap, wanted: &Method) -> Result<HeaderMap, Problem> {
        let refused = |detail: &str| Err(Problem::new(http::StatusCode::FORBIDDEN, "cors_refused", detail));
        if headers.get(header::ORIGIN).is_none_or(|origin| !self.takes(origin)) {
            return refused("pages of this origin may not use it");
        }
        let mut answer = HeaderMap::new();
        let methods = match &self.methods {
            Some((known, text)) if known.iter().any(|known| known.as_str() == wanted.as_str()) => text.clone(),
            Some(_) => return refused("pages of other origins may not use this method"),
            None => HeaderValue::try_from(wanted.as_str()).map_err(Problem::internal)?,
        };
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            let names = asked.to_str().unwrap_or("?").split(',').map(|name| name.trim().to_ascii_lowercase());
            let known =
                |name: &str| self.headers.as_ref().is_none_or(|known| known.iter().any(|known| **known == *name));
            if !names.into_iter().all(|name| http::HeaderName::try_from(&name).is_ok() && known(&name)) {
                return refused("pages of other origins may not send one of these headers");
            }
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        let vary = "access-control-request-method, access-control-request-headers";
        answer.insert(header::VARY, HeaderValue::from_static(vary));
        Ok(answer)
    }

    /// Says who may read an answer, whatever the instance said of it.
    pub fn dress(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            headers.remove(name);
        }
        if !self.takes_any {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = origin.filter(|origin| self.takes(origin)) else { return };
        let allowed = if self.takes_any { HeaderValue::from_static("*") } else { origin.clone() };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}
