//! Time-based one-time passwords (RFC 6238 over RFC 4226): six digits, 30 seconds, SHA-1, which is what every app knows.

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq as _;

use crate::codes;

/// Seconds of a step.
pub const STEP_SECONDS: i64 = 30;
/// Codes of so many steps before and after the current one are taken, for clocks that differ.
const WINDOW: i64 = 1;
const DIGITS: u32 = 6;
/// Bytes of a secret (RFC 4226 section 4, R6).
pub const SECRET_BYTES: usize = 20;

/// The code of one step: `digits` of the truncated HMAC.
pub fn code(algorithm: hmac::Algorithm, secret: &[u8], step: i64, digits: u32) -> String {
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag.last().copied().unwrap_or(0) & 15);
    let four = tag.get(offset..offset + 4).map_or([0; 4], |four| [four[0] & 0x7f, four[1], four[2], four[3]]);
    let number = u64::from(u32::from_be_bytes(four)) % 10_u64.pow(digits);
    format!("{number:0width$}", width = digits as usize)
}

/// The step whose code this is, if it is one of those around now and later than `last_step`: an accepted code and all before
/// it are used up.
pub fn accepted_step(secret: &[u8], typed: &str, now: i64, last_step: i64) -> Option<i64> {
    let typed: String = typed.chars().filter(|character| *character != ' ').collect();
    let current = now.div_euclid(STEP_SECONDS);
    let mut found = None;
    for step in current - WINDOW..=current + WINDOW {
        let expected = code(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret, step, DIGITS);
        let same: bool = expected.as_bytes().ct_eq(typed.as_bytes()).into();
        if same && step > last_step {
            found = Some(step);
        }
    }
    found
}

/// What an app reads from a QR code.
pub fn uri(issuer: &str, username: &str, secret: &[u8]) -> String {
    let encode =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let (issuer, username) = (encode(issuer), encode(username));
    let secret = codes::base32(secret);
    format!("otpauth://totp/{issuer}:{username}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits=6&period=30")
}
