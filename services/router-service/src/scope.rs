//! What a token was granted for (RFC 6749 section 3.3): a route may ask for scopes beside, or instead of, a permission. A
//! permission says what the subject may; a scope, what it let a client do in its name.

use http::{HeaderValue, StatusCode, header};
use kronos_common::problem::Problem;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::authentication::Authentication;

/// Most that a route may ask for.
const MOST: usize = 8;
const LONGEST: usize = 100;

/// One scope, as it stands in a token: `scope-token` of RFC 6749 section 3.3, at most 100 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 100, pattern = r"^[!#-\[\]-~]+$", example = "orders")]
pub struct Scope(String);

impl Scope {
    fn is_good(&self) -> bool {
        let is_of_scope = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        (1..=LONGEST).contains(&self.0.len()) && self.0.bytes().all(is_of_scope)
    }
}

/// Tells what is wrong with a route's scopes.
pub fn check(scopes: &[Scope], authentication: &[Authentication], wrong: &mut impl FnMut(&str, &'static str, String)) {
    if scopes.len() > MOST {
        wrong("/scopes", "out_of_range", format!("at most {MOST}"));
    }
    for (index, scope) in scopes.iter().enumerate() {
        let pointer = format!("/scopes/{index}");
        if !scope.is_good() {
            let detail = format!("1 to {LONGEST} printable ASCII characters but space, quote and backslash");
            wrong(&pointer, "invalid", detail);
        } else if scopes[..index].contains(scope) {
            wrong(&pointer, "duplicate", "name each scope once".to_owned());
        }
    }
    if authentication.iter().any(|way| *way != Authentication::Jwt) {
        wrong("/scopes", "needs_token", "only tokens have scopes: `authentication` must be `jwt` alone".to_owned());
    }
}

/// Whether a token's `scope` names all that are wanted.
///
/// # Errors
/// 403 `insufficient_scope`, with the challenge of RFC 6750 section 3.1.
pub fn permit(wanted: &[Scope], granted: &str) -> Result<(), Problem> {
    if wanted.iter().all(|scope| granted.split(' ').any(|granted| granted == scope.0)) {
        return Ok(());
    }
    let wanted = wanted.iter().map(|scope| scope.0.as_str()).collect::<Vec<_>>().join(" ");
    let detail = format!("this needs a token with the scope {wanted}");
    let challenge = HeaderValue::try_from(format!(r#"Bearer error="insufficient_scope", scope="{wanted}""#));
    let challenge = challenge.map_err(Problem::internal)?;
    Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", detail)
        .with_header(header::WWW_AUTHENTICATE, challenge))
}
