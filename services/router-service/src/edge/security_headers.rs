//! Response headers that protect browsers, by preset, after OWASP's Secure Headers Project.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which of them the answers of a route get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum SecurityHeaders {
    /// No sniffing, no framing, nothing loaded, no referrer; an instance may say the last four otherwise.
    #[default]
    Default,
    /// All that there are, whatever an instance says; and answers are not stored.
    Strict,
    /// As `default`, for answers that only programs read: not stored, and HTTPS only from now on.
    Api,
    /// For pages: own scripts and styles, framed by themselves only; an instance may say it otherwise.
    Web,
    /// Nothing.
    None,
}

type Header = (HeaderName, HeaderValue);

const fn header(name: &'static str, value: &'static str) -> Header {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

const NO_SNIFFING: Header = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
const HTTPS_ONLY: Header =
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=63072000; includeSubDomains"));
const NO_REFERRER: Header = (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
const NO_FRAMES: Header = (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
const NOTHING_LOADED: Header =
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
const SAME_SITE: Header = header("cross-origin-resource-policy", "same-site");
const NOT_STORED: Header = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
const NO_FEATURES: &str = "accelerometer=(), camera=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), \
                           payment=(), usb=()";

impl SecurityHeaders {
    /// `is_https`: the client came by TLS; without it browsers ignore `Strict-Transport-Security`.
    pub fn apply(self, headers: &mut HeaderMap, is_https: bool) {
        match self {
            Self::Default => suggest(headers, [NO_REFERRER, NO_FRAMES, NOTHING_LOADED, SAME_SITE]),
            Self::Api => suggest(headers, [NO_REFERRER, NO_FRAMES, NOTHING_LOADED, SAME_SITE, NOT_STORED]),
            Self::Web => suggest(
                headers,
                [
                    header("referrer-policy", "strict-origin-when-cross-origin"),
                    header("x-frame-options", "SAMEORIGIN"),
                    header(
                        "content-security-policy",
                        "default-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
                    ),
                    header("cross-origin-opener-policy", "same-origin"),
                    header("permissions-policy", NO_FEATURES),
                    SAME_SITE,
                ],
            ),
            Self::Strict => {
                for (name, value) in [
                    NO_REFERRER,
                    NO_FRAMES,
                    NOTHING_LOADED,
                    NOT_STORED,
                    header("cross-origin-resource-policy", "same-origin"),
                    header("cross-origin-opener-policy", "same-origin"),
                    header("cross-origin-embedder-policy", "require-corp"),
                    header("permissions-policy", NO_FEATURES),
                    header("x-permitted-cross-domain-policies", "none"),
                ] {
                    headers.insert(name, value);
                }
            }
            Self::None => return,
        }
        headers.insert(NO_SNIFFING.0, NO_SNIFFING.1);
        if is_https && self != Self::Default {
            suggest(headers, [HTTPS_ONLY]);
        }
    }
}

/// An instance that says it otherwise is left to.
fn suggest<const N: usize>(headers: &mut HeaderMap, list: [Header; N]) {
    for (name, value) in list {
        headers.entry(name).or_insert(value);
    }
}
