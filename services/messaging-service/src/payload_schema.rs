//! Topics' JSON Schemas: what a schema may be, and payloads held against them. Compiled once for each topic at each instance;
//! patterns run in linear time, and nothing is fetched from anywhere. No I/O.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jsonschema::{PatternOptions, ValidationError, Validator};
use kronos_common::problem::{FieldError, Problem, Result};
use serde_json::Value;
use uuid::Uuid;

use crate::topic::Topic;

/// Largest schema, in bytes.
const LARGEST: usize = 65_536;
/// Largest compiled pattern, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;
/// Errors that are told of one payload.
const MOST_ERRORS: usize = 50;
/// Compiled schemas; at that many the memory begins anew.
const MOST: usize = 1000;

/// Compiled schemas by topic; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Schemas(Arc<Mutex<HashMap<Uuid, Arc<Validator>>>>);

impl Schemas {
    /// Holds a payload against its topic's schema, if there is one.
    ///
    /// # Errors
    /// 422 that names each error, with the code `against_schema` and a pointer below `at`.
    pub(crate) fn check(&self, topic: &Topic, payload: &[u8], at: &str) -> Result<()> {
        let Some(schema) = &topic.schema else { return Ok(()) };
        let validator = self.validator(topic.topic_id, schema)?;
        let Ok(document) = serde_json::from_slice::<Value>(payload) else {
            return Err(Problem::field(at, "against_schema", "this topic takes JSON alone"));
        };
        let errors: Vec<FieldError> = validator
            .iter_errors(&document)
            .take(MOST_ERRORS)
            .map(|error| FieldError::new(format!("{at}{}", error.instance_path()), "against_schema", told(&error)))
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
    }

    fn validator(&self, topic_id: Uuid, schema: &Value) -> Result<Arc<Validator>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(validator) = known.get(&topic_id) {
            return Ok(validator.clone());
        }
        let compiled = compile(schema).map_err(|error| Problem::internal(anyhow::anyhow!("a kept schema: {error}")))?;
        if known.len() >= MOST {
            known.clear();
        }
        let validator = Arc::new(compiled);
        known.insert(topic_id, validator.clone());
        Ok(validator)
    }
}

/// Why a schema is refused; `None`: it is good.
pub(crate) fn fault(schema: &Value) -> Option<String> {
    let text = schema.to_string();
    if text.len() > LARGEST {
        return Some(format!("at most {LARGEST} bytes"));
    }
    if text.contains("\\u0000") {
        return Some("zero characters can't be kept".to_owned());
    }
    if !schema.is_object() && !schema.is_boolean() {
        return Some("a schema is an object, or true or false".to_owned());
    }
    compile(schema).err().map(|error| format!("{} at {}", told(&error), error.instance_path()))
}

fn compile(schema: &Value) -> std::result::Result<Validator, Box<ValidationError<'static>>> {
    let patterns = PatternOptions::regex().size_limit(LARGEST_PATTERN);
    jsonschema::options().with_pattern_options(patterns).build(schema).map_err(Box::new)
}

/// The message without the value, which may be large or secret.
fn told(error: &ValidationError<'_>) -> String {
    let mut text = error.masked_with("the value").to_string();
    if text.len() > 500 {
        text = text.chars().take(500).collect();
    }
    text
}
