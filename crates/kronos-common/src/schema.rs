//! Holds a JSON document against the schema that OpenAPI publishes for a type, to name every bad field at once. Used after
//! serde has refused the document, so it costs nothing on good requests.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::problem::FieldError;

/// A document that is wrong in more places is not described further.
const MAX_ERRORS: usize = 100;

/// Compiled schemas; they follow from the types alone, so the table is constant data filled on first use.
static VALIDATORS: LazyLock<Mutex<HashMap<TypeId, Option<Arc<Validator>>>>> = LazyLock::new(Mutex::default);

/// Every place in which `document` breaks the schema of `T`, ordered by pointer.
pub fn violations<T: ToSchema + 'static>(document: &Value) -> Vec<FieldError> {
    let Some(validator) = validator::<T>() else {
        return Vec::new();
    };
    let mut errors: Vec<FieldError> =
        validator.iter_errors(document).take(MAX_ERRORS).flat_map(|error| describe(&error)).collect();
    errors.sort_by(|a, b| a.pointer.cmp(&b.pointer));
    errors.dedup();
    errors
}

fn validator<T: ToSchema + 'static>() -> Option<Arc<Validator>> {
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    validators
        .entry(TypeId::of::<T>())
        .or_insert_with(|| jsonschema::validator_for(&document::<T>()).ok().map(Arc::new))
        .clone()
}

/// The schema of `T` with all that it refers to, as one JSON Schema document.
fn document<T: ToSchema>() -> Value {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    let parts: HashMap<String, _> = parts.into_iter().collect();
    json!({ "allOf": [T::schema()], "components": { "schemas": parts } })
}

fn describe(error: &ValidationError<'_>) -> Vec<FieldError> {
    let at = error.instance_path().to_string();
    let below = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    let one = |code, detail: String| vec![FieldError::new(at.clone(), code, detail)];
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .map(|name| FieldError::new(below(name), "unknown_field", "there is no such field: remove it"))
            .collect(),
        ValidationErrorKind::Required { property } => {
            vec![FieldError::new(below(property.as_str().unwrap_or_default()), "missing", "this field is required")]
        }
        ValidationErrorKind::Type { .. } => one("wrong_type", error.masked_with("the value").to_string()),
        ValidationErrorKind::MaxLength { limit } => one("too_long", format!("at most {limit} characters")),
        ValidationErrorKind::MinLength { limit } => one("too_short", format!("at least {limit} characters")),
        ValidationErrorKind::MaxItems { limit } => one("too_many", format!("at most {limit} items")),
        ValidationErrorKind::MinItems { limit } => one("too_few", format!("at least {limit} items")),
        ValidationErrorKind::Maximum { limit } => one("too_large", format!("at most {limit}")),
        ValidationErrorKind::Minimum { limit } => one("too_small", format!("at least {limit}")),
        ValidationErrorKind::Enum { options } => one("not_allowed", format!("one of {options}")),
        ValidationErrorKind::Pattern { pattern } => one("wrong_form", format!("it must match {pattern}")),
        ValidationErrorKind::Format { format } => one("wrong_form", format!("it must be a valid {format}")),
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            closest(context).unwrap_or_else(|| one("not_allowed", "it has none of the allowed forms".to_owned()))
        }
        _ => one("invalid", error.masked_with("the value").to_string()),
    }
}

/// Of several allowed forms, what is wrong with the one that came nearest: an optional value is `null` or the real form.
fn closest(forms: &[Vec<ValidationError<'static>>]) -> Option<Vec<FieldError>> {
    let is_null_form = |errors: &Vec<ValidationError<'static>>| {
        errors.iter().any(|error| error.to_string().ends_with("is not of type \"null\""))
    };
    let mut real = forms.iter().filter(|errors| !is_null_form(errors));
    let only = real.next()?;
    if real.next().is_some() {
        return None;
    }
    Some(only.iter().flat_map(describe).collect())
}
