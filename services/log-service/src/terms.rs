//! The words of a line, cut in one way for Elasticsearch, PostgreSQL and the live tail, so that all three find the same.
//! Words are runs of letters and digits, in lowercase. A line's terms are one text: ` the words | of a value | =key=value `:
//! a blank around each, `|` between fields so that no phrase crosses it, and each attribute once more as an exact pair.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Longer words are cut here.
const MAX_WORD_CHARS: usize = 100;
/// Longer values can't be searched exactly, only by their words.
pub const MAX_VALUE_CHARS: usize = 256;
/// More attributes can't be searched.
pub const MAX_PAIRS: usize = 200;
/// The text ends here.
const MAX_TERMS_BYTES: usize = 131_072;

/// The words of a text.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty()).map(|run| {
        run.chars().take(MAX_WORD_CHARS).flat_map(char::to_lowercase).filter(|c| c.is_alphanumeric()).collect()
    })
}

/// The terms of a line.
pub fn of(message: &str, attributes: &Map<String, Value>) -> String {
    let mut terms = String::with_capacity(message.len() + 16);
    terms.push(' ');
    push_words(&mut terms, message);
    let pairs = pairs(attributes);
    for (_, value) in &pairs {
        terms.push_str("| ");
        push_words(&mut terms, value);
    }
    for (path, value) in &pairs {
        if value.chars().count() <= MAX_VALUE_CHARS && terms.len() < MAX_TERMS_BYTES {
            terms.push_str(&pair(path, value));
            terms.push(' ');
        }
    }
    terms
}

/// An attribute as one exact term.
pub fn pair(path: &str, value: &str) -> String {
    let mut term = String::with_capacity(path.len() + value.len() + 2);
    term.push('=');
    push_encoded(&mut term, path);
    term.push('=');
    push_encoded(&mut term, value);
    term
}

/// The attributes as path and text: `{"a":{"b":[1,"x"]}}` is `a.b` = `1` and `a.b` = `x`. Null and empty say nothing.
pub fn pairs(attributes: &Map<String, Value>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (key, value) in attributes {
        collect(key, value, &mut pairs);
    }
    pairs
}

fn collect(path: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    if pairs.len() >= MAX_PAIRS || path.len() > MAX_VALUE_CHARS {
        return;
    }
    match value {
        Value::Null => {}
        Value::Bool(flag) => pairs.push((path.to_owned(), flag.to_string())),
        Value::Number(number) => pairs.push((path.to_owned(), number.to_string())),
        Value::String(text) => pairs.push((path.to_owned(), text.clone())),
        Value::Array(items) => items.iter().for_each(|item| collect(path, item, pairs)),
        Value::Object(map) => map.iter().for_each(|(key, value)| collect(&format!("{path}.{key}"), value, pairs)),
    }
}

fn push_words(terms: &mut String, text: &str) {
    for word in words(text) {
        if terms.len() > MAX_TERMS_BYTES {
            return;
        }
        if !word.is_empty() {
            terms.push_str(&word);
            terms.push(' ');
        }
    }
}

/// Leaves no character that a blank, a `like` pattern or this form itself could mistake.
fn push_encoded(term: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, '-' | '.' | ':' | '/' | '@') {
            term.push(c);
        } else {
            let _ = write!(term, "~{:x}~", u32::from(c));
        }
    }
}
