//! Attributes of people that the administrator defines: of which types they are, and what of them is a person's. Where the
//! sealed ones are kept is `sealing.rs`'s.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::scim::Document;

/// How many attributes there can be.
pub const MOST_ATTRIBUTES: usize = 100;
/// How many values a list can have.
const MOST_VALUES: usize = 100;
/// The longest text where the definition does not say, in characters.
const LONGEST: u32 = 1_024;
/// All attributes of a person, in bytes of JSON.
const LARGEST: usize = 65_536;

/// Every attribute that people can have beyond those that Kronos has itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// By name: 1 to 64 letters, digits and `_`, a letter first; unique whatever the case.
    pub attributes: BTreeMap<String, Definition>,
}

/// What an attribute is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Definition {
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Nobody can be made, or have their attributes changed, without it. Directories (SCIM) are not held to it.
    #[serde(default)]
    pub required: bool,
    /// Encrypted where it is kept; it can be looked for by `eq` and `pr`, and is in no event and no history.
    #[serde(default)]
    pub sealed: bool,
    /// Of texts, in characters: 1,024 if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16384, nullable = false)]
    pub max_length: Option<u32>,
    /// For people to read.
    #[serde(default)]
    #[schema(max_length = 256)]
    pub description: String,
}

/// What values of an attribute are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A text; its case counts.
    String,
    /// 64 bits.
    Integer,
    Number,
    Boolean,
    /// RFC 3339; kept in UTC, to the microsecond.
    DateTime,
    /// At most 100 texts.
    StringList,
}

impl Schema {
    /// What of a definition cannot be, by pointer into the schema.
    pub fn faults(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        if self.attributes.len() > MOST_ATTRIBUTES {
            faults.push(FieldError::new("/attributes", "too_many", "at most 100 attributes"));
        }
        let mut names = std::collections::BTreeSet::new();
        for (name, definition) in &self.attributes {
            let at = format!("/attributes/{}", escape(name));
            let plain = |character: char| character.is_ascii_alphanumeric() || character == '_';
            if !(1..=64).contains(&name.len())
                || !name.starts_with(|first: char| first.is_ascii_alphabetic())
                || !name.chars().all(plain)
            {
                faults.push(FieldError::new(&at, "invalid", "1 to 64 letters, digits and _, a letter first"));
            } else if !names.insert(name.to_ascii_lowercase()) {
                faults.push(FieldError::new(&at, "duplicate", "another attribute has this name in another case"));
            }
            if definition.max_length.is_some_and(|length| !(1..=16_384).contains(&length)) {
                faults.push(FieldError::new(format!("{at}/maxLength"), "out_of_range", "1 to 16384 characters"));
            }
            if definition.description.chars().count() > 256 || definition.description.contains('\0') {
                faults.push(FieldError::new(format!("{at}/description"), "too_long", "at most 256 characters"));
            }
        }
        faults
    }

    /// The definition of a name in any case, as filters have names.
    pub fn find(&self, name: &str) -> Option<(&str, &Definition)> {
        let exact = self.attributes.get_key_value(name);
        let found = exact.or_else(|| self.attributes.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)));
        found.map(|(name, definition)| (name.as_str(), definition))
    }

    /// Whose values would not fit any more if `next` stood in place of this: they must have none.
    pub fn narrowed<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = (&'a str, &'a Definition)> {
        let fits = |name: &str, old: &Definition| {
            next.attributes.get(name).is_some_and(|new| {
                let wider = matches!((old.kind, new.kind), (Kind::Integer, Kind::Number)) || old.kind == new.kind;
                wider && old.sealed == new.sealed && new.longest() >= old.longest()
            })
        };
        self.attributes
            .iter()
            .filter(move |(name, old)| !fits(name, old))
            .map(|(name, definition)| (name.as_str(), definition))
    }

    /// A person's attributes in the form in which they are kept.
    ///
    /// # Errors
    /// Every one that is unknown, of another type, too long, or missing; by pointer into the person.
    pub fn read(&self, sent: Document) -> Result<Document, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut read = Document::new();
        for (name, value) in sent {
            let at = format!("/attributes/{}", escape(&name));
            let Some(definition) = self.attributes.get(&name) else {
                errors.push(FieldError::new(at, "unknown_attribute", "the schema has no such attribute"));
                continue;
            };
            match definition.value(value) {
                Ok(value) => _ = read.insert(name, value),
                Err((code, detail)) => errors.push(FieldError::new(at, code, detail)),
            }
        }
        for (name, definition) in &self.attributes {
            let at = format!("/attributes/{name}");
            if definition.required && !read.contains_key(name) && !errors.iter().any(|error| error.pointer == at) {
                errors.push(FieldError::new(at, "missing", "this attribute is required"));
            }
        }
        if errors.is_empty() && serde_json::to_vec(&read).map_or(0, |bytes| bytes.len()) > LARGEST {
            errors.push(FieldError::new("/attributes", "too_large", format!("all together at most {LARGEST} bytes")));
        }
        if errors.is_empty() { Ok(read) } else { Err(errors) }
    }

    /// Those that are kept as they are, and those that are sealed.
    pub fn split(&self, attributes: Document) -> (Document, Document) {
        let sealed = |name: &String| self.attributes.get(name).is_some_and(|definition| definition.sealed);
        attributes.into_iter().partition(|(name, _)| !sealed(name))
    }
}

impl Definition {
    /// The longest text, in characters.
    fn longest(&self) -> u32 {
        self.max_length.unwrap_or(LONGEST)
    }

    /// A value in the form in which it is kept; equal ones are the same JSON.
    ///
    /// # Errors
    /// Code and sentence.
    pub fn value(&self, value: Value) -> Result<Value, (&'static str, String)> {
        let wrong = |what: &str| Err(("wrong_type", format!("a value of this attribute is {what}")));
        match (self.kind, value) {
            (Kind::String, Value::String(text)) => self.text(text).map(Value::String),
            (Kind::String, _) => wrong("a text"),
            (Kind::Integer, value) => match whole(&value) {
                Some(number) => Ok(number.into()),
                None => wrong("a whole number of 64 bits"),
            },
            (Kind::Number, Value::Number(number)) => {
                Ok(whole(&Value::Number(number.clone())).map_or(Value::Number(number), Value::from))
            }
            (Kind::Number, _) => wrong("a number"),
            (Kind::Boolean, Value::Bool(value)) => Ok(value.into()),
            (Kind::Boolean, _) => wrong("true or false"),
            (Kind::DateTime, Value::String(text)) => match DateTime::parse_from_rfc3339(&text) {
                Ok(time) => Ok(time.to_utc().to_rfc3339_opts(SecondsFormat::Micros, true).into()),
                Err(_) => wrong("a time such as \"2026-11-21T20:00:00Z\""),
            },
            (Kind::DateTime, _) => wrong("a time such as \"2026-11-21T20:00:00Z\""),
            (Kind::StringList, Value::Array(values)) if values.len() > MOST_VALUES => {
                Err(("too_many", format!("at most {MOST_VALUES} values")))
            }
            (Kind::StringList, Value::Array(values)) => {
                let texts = values.into_iter().map(|value| match value {
                    Value::String(text) => self.text(text).map(Value::String),
                    _ => wrong("a list of texts"),
                });
                texts.collect::<Result<Vec<_>, _>>().map(Value::Array)
            }
            (Kind::StringList, _) => wrong("a list of texts"),
        }
    }

    fn text(&self, text: String) -> Result<String, (&'static str, String)> {
        if text.contains('\0') {
            return Err(("invalid_text", "the character U+0000 is not possible here".to_owned()));
        }
        if text.chars().count() > self.longest() as usize {
            return Err(("too_long", format!("at most {} characters", self.longest())));
        }
        Ok(text)
    }
}

/// A number without a fraction, also if it is written with one.
fn whole(value: &Value) -> Option<i64> {
    // Up to here each whole number is one that a double has.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= EXACT)?;
        #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is small")]
        Some(number as i64)
    })
}

/// A merge patch of somebody's attributes (RFC 7396): null takes one away. Values are never merged, for none is an object.
pub fn merge(attributes: &mut Document, patch: &Document) {
    for (name, value) in patch {
        if value.is_null() {
            attributes.remove(name);
        } else {
            attributes.insert(name.clone(), value.clone());
        }
    }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
