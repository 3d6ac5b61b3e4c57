//! Secrets that callers write into their logs by mistake are replaced before anything is kept. Keys are judged by their
//! name; in messages, `name=value`, `name: value` and bearer tokens. Also takes out what PostgreSQL can't hold (U+0000).

use serde_json::{Map, Value};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// A key that contains one of these, without case and punctuation, holds a secret.
const SECRET_NAMES: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "privatekey",
    "credential",
    "totp",
];

/// Whether a key of this name holds a secret.
pub fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    SECRET_NAMES.iter().any(|secret| plain.contains(secret)) || plain == "pwd" || plain == "auth"
}

/// The attributes without their secrets, at any depth.
pub fn attributes(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .map(|(key, value)| {
            let value = if is_secret(&key) && !value.is_null() { Value::from(REDACTED) } else { clean(value) };
            (without_nul(key), value)
        })
        .collect()
}

fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(attributes(map)),
        Value::Array(items) => Value::Array(items.into_iter().map(clean).collect()),
        Value::String(text) => Value::String(message(&text)),
        other => other,
    }
}

/// The text without the values of secret names and without bearer tokens.
pub fn message(text: &str) -> String {
    let text = without_nul(text.to_owned());
    if !suspicious(&text) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    // `name` is the run of letters, digits, `_` and `-` that ended last; a separator after it opens a value.
    while let Some(start) = rest.find(is_name) {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let end = from.find(|c| !is_name(c)).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        out.push_str(name);
        rest = after;
        let value_at = if name.eq_ignore_ascii_case("bearer") && after.starts_with(' ') {
            Some(1)
        } else if is_secret(name) {
            separator(after)
        } else {
            None
        };
        if let Some(at) = value_at {
            let (separator, value) = after.split_at(at);
            let length = match separator.chars().last().filter(|c| matches!(c, '"' | '\'')) {
                Some(quote) => value.find(quote).unwrap_or(value.len()),
                None => value_length(value),
            };
            if length > 0 {
                out.push_str(separator);
                out.push_str(REDACTED);
                rest = &value[length..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

/// Cheap test that spares most messages the scan.
fn suspicious(text: &str) -> bool {
    let lower = text.to_lowercase();
    lower.contains("bearer")
        || lower.contains("pwd")
        || lower.contains("auth")
        || lower.contains("pass")
        || ["secret", "token", "cookie", "key", "credential", "totp"].iter().any(|word| lower.contains(word))
}

/// The length of `=`, `: `, `": "` and their like at the start of the text.
fn separator(text: &str) -> Option<usize> {
    let after_quote = text.trim_start_matches(['"', '\'']);
    let trimmed = after_quote.trim_start_matches(' ');
    let rest = trimmed.strip_prefix("=>").or_else(|| trimmed.strip_prefix(['=', ':']))?;
    let rest = rest.trim_start_matches(' ');
    let rest = rest.strip_prefix(['"', '\'']).unwrap_or(rest);
    Some(text.len() - rest.len())
}

/// Up to a blank or a closing sign; `Basic x` and `Bearer x` whole.
fn value_length(value: &str) -> usize {
    let scheme = ["bearer ", "basic ", "digest "]
        .iter()
        .find(|scheme| value.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme)));
    let skip = scheme.map_or(0, |scheme| scheme.len());
    let end =
        value[skip..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '&' | ')' | '}' | ']'));
    end.map_or(value.len(), |end| skip + end)
}

fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}
