//! Authorisation as an extractor in the handler's signature: `Allowed<CanReadLogs>` instead of a check that can be
//! forgotten. Rights tied to one resource are asked of user-service, not here.

use std::{fmt, marker::PhantomData, sync::Arc};

use axum::{
    extract::{FromRef, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};

use super::{Claims, Verifier};
use crate::problem::Problem;

/// A permission as a type.
///
/// ```
/// use kronos_common::identity::Permission;
///
/// struct CanReadLogs;
///
/// impl Permission for CanReadLogs {
///     const NAME: &'static str = "logs:read";
/// }
/// ```
pub trait Permission {
    /// `resource:action`, without wildcards.
    const NAME: &'static str;
}

/// Whoever sent a valid token. As an extractor it asks for a token and for no permission.
#[derive(Debug, Clone)]
pub struct Caller {
    /// What the token says.
    pub claims: Arc<Claims>,
}

impl Caller {
    /// The user's id, or the client's own id.
    pub fn subject(&self) -> &str {
        &self.claims.sub
    }

    /// The OAuth client that speaks, for itself or for a user.
    pub fn client_id(&self) -> &str {
        &self.claims.client_id
    }

    /// Whether the caller holds `permission` everywhere.
    pub fn may(&self, permission: &str) -> bool {
        self.claims.permissions.iter().any(|granted| permission_matches(granted, permission))
    }

    /// For handlers whose permission depends on the input.
    ///
    /// # Errors
    /// 403 `permission_denied` that names the missing permission.
    pub fn require(&self, permission: &str) -> Result<(), Problem> {
        if self.may(permission) {
            Ok(())
        } else {
            Err(Problem::forbidden(format!("this needs the permission {permission}")))
        }
    }
}

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Verifier: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let claims = Verifier::from_ref(state).authenticate(&parts.method, &parts.uri, &parts.headers).await?;
        Ok(Self { claims })
    }
}

/// A caller who holds the permission `P`: 401 without a valid token, 403 `permission_denied` without the permission.
pub struct Allowed<P> {
    /// Who it is.
    pub caller: Caller,
    permission: PhantomData<fn() -> P>,
}

impl<P: Permission> fmt::Debug for Allowed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowed").field("permission", &P::NAME).field("caller", &self.caller).finish()
    }
}

impl<S, P> FromRequestParts<S> for Allowed<P>
where
    S: Send + Sync,
    P: Permission,
    Verifier: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.require(P::NAME)?;
        Ok(Self { caller, permission: PhantomData })
    }
}

/// How a token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Whoever has it may use it (RFC 6750).
    Bearer,
    /// With a proof of its key (RFC 9449).
    Dpop,
}

/// The token of `Authorization: Bearer …` (RFC 6750 section 2.1; never from the query or a form).
///
/// # Errors
/// 401 `token_missing` without the header, `token_malformed` with another scheme, two headers, or odd characters.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    match presented(headers)? {
        (Scheme::Bearer, token) => Ok(token),
        (Scheme::Dpop, _) => Err(malformed()),
    }
}

/// The token of `Authorization: Bearer …` or `Authorization: DPoP …`, unproved.
///
/// # Errors
/// As [`bearer`].
pub fn presented(headers: &HeaderMap) -> Result<(Scheme, &str), Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(Problem::unauthorized("token_missing", "send a token: `Authorization: Bearer …`"));
    };
    let shown = value.to_str().ok().filter(|_| values.next().is_none()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim_matches(' ');
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        let scheme = match scheme {
            scheme if scheme.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
            scheme if scheme.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
            _ => return None,
        };
        (!token.is_empty() && token.bytes().all(plain)).then_some((scheme, token))
    });
    shown.ok_or_else(malformed)
}

fn malformed() -> Problem {
    Problem::unauthorized("token_malformed", "send exactly one header `Authorization: Bearer …`")
}

/// Whether a granted permission covers a wanted one. Both have segments with `:` between; `*` in the granted one stands for
/// any one segment, and means nothing in the wanted one: `logs:*` covers `logs:read`, `*:*` covers all of two segments.
pub fn permission_matches(granted: &str, wanted: &str) -> bool {
    let (mut granted, mut wanted) = (granted.split(':'), wanted.split(':'));
    loop {
        match (granted.next(), wanted.next()) {
            (None, None) => return true,
            (Some(have), Some(want)) if !want.is_empty() && (have == "*" || have == want) => {}
            _ => return false,
        }
    }
}

/// Whether a right on `pattern` covers `resource`. A pattern is a resource, such as `robot:R-42`, or all that is below one:
/// `customer:17/*` covers `customer:17/robot:R-42`, and not `customer:17` itself; `topic:orders.*` covers `topic:orders.eu`
/// and `topic:orders.eu.paris`.
pub fn resource_matches(pattern: &str, resource: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(above) if above.ends_with(['/', '.']) => {
            resource.strip_prefix(above).is_some_and(|below| !below.is_empty())
        }
        _ => pattern == resource,
    }
}

/// Whether a text names a resource: `type:id`, perhaps with parts below it, `customer:17/robot:R-42`; at most 256 bytes.
pub fn is_resource(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte))
    };
    let typed = text.split_once(':').is_some_and(|(kind, id)| {
        kind.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
            && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !id.is_empty()
            && !id.starts_with('/')
    });
    text.len() <= 256 && typed && text.split('/').all(part)
}

/// Whether a text is a pattern as [`resource_matches`] takes them, of at most 256 bytes.
pub fn is_resource_pattern(text: &str) -> bool {
    let resource = text.strip_suffix("/*").or_else(|| text.strip_suffix(".*")).unwrap_or(text);
    text.len() <= 256 && is_resource(resource)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_segment() {
        for (granted, wanted, expected) in [
            ("logs:read", "logs:read", true),
            ("logs:*", "logs:read", true),
            ("*:read", "logs:read", true),
            ("*:*", "logs:read", true),
            ("*", "logs:read", false),
            ("*:*", "logs", false),
            ("*:*:*", "logs:read", false),
            ("logs:read", "logs:*", false),
            ("logs:re*", "logs:read", false),
            ("logs:", "logs:", false),
            ("logs:*", "logs:", false),
            ("", "", false),
            ("Logs:read", "logs:read", false),
        ] {
            assert_eq!(permission_matches(granted, wanted), expected, "{granted} for {wanted}");
        }
    }

    #[test]
    fn a_right_on_a_resource_covers_it_or_all_that_is_below() {
        for (pattern, resource, expected) in [
            ("robot:R-42", "robot:R-42", true),
            ("robot:R-42", "robot:R-4", false),
            ("robot:R-4", "robot:R-42", false),
            ("customer:17/*", "customer:17/robot:R-42", true),
            ("customer:17/*", "customer:17/a/b", true),
            ("customer:17/*", "customer:17", false),
            ("customer:17/*", "customer:17/", false),
            ("customer:17/*", "customer:170/a", false),
            ("topic:orders.*", "topic:orders.eu", true),
            ("topic:orders.*", "topic:orders.eu.paris", true),
            ("topic:orders.*", "topic:orders", false),
            ("topic:orders.*", "topic:ordersx.eu", false),
            ("topic:orders*", "topic:orders.eu", false),
            ("customer:1/*", "customer:17/a", false),
        ] {
            assert_eq!(resource_matches(pattern, resource), expected, "{pattern} for {resource}");
        }
    }

    #[test]
    fn a_token_comes_from_one_bearer_header_only() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            headers
        };
        assert_eq!(bearer(&headers(&["Bearer a.b.c"])).expect("good"), "a.b.c");
        assert_eq!(bearer(&headers(&["bearer  a.b.c "])).expect("good"), "a.b.c");
        assert_eq!(bearer(&headers(&[])).expect_err("none").code(), "token_missing");
        for bad in
            [&["Basic YTpi"][..], &["Bearer"], &["Bearer "], &["Bearer a b"], &["Bearer a", "Bearer a"], &["a.b.c"]]
        {
            assert_eq!(bearer(&headers(bad)).expect_err("bad").code(), "token_malformed", "{bad:?}");
        }
    }

    fn segment() -> impl Strategy<Value = String> {
        "[a-z]{1,6}"
    }

    proptest! {
        #[test]
        fn any_segment_may_be_a_wildcard(parts in prop::collection::vec((segment(), any::<bool>()), 1..5)) {
            let wanted = parts.iter().map(|(part, _)| part.as_str()).collect::<Vec<_>>().join(":");
            let granted = parts.iter().map(|(part, wild)| if *wild { "*" } else { part }).collect::<Vec<_>>().join(":");
            prop_assert!(permission_matches(&granted, &wanted));
        }

        #[test]
        fn one_other_segment_is_enough_to_refuse(
            parts in prop::collection::vec(segment(), 1..5),
            at in any::<prop::sample::Index>(),
        ) {
            let wanted = parts.join(":");
            let mut other = parts.clone();
            other[at.index(parts.len())].push('x');
            prop_assert!(!permission_matches(&other.join(":"), &wanted));
        }

        #[test]
        fn another_number_of_segments_is_refused(granted in prop::collection::vec("[a-z*]{1,3}", 1..5), wanted in prop::collection::vec(segment(), 1..5)) {
            prop_assume!(granted.len() != wanted.len());
            prop_assert!(!permission_matches(&granted.join(":"), &wanted.join(":")));
        }

        #[test]
        fn no_text_makes_it_panic(granted in ".{0,20}", wanted in ".{0,20}") {
            let _ = permission_matches(&granted, &wanted);
        }
    }
}
