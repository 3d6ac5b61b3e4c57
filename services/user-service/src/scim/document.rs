//! Reads what a client sends by the schema: names in any case, values of the right type, nothing that is read-only. What
//! directories send a little wrong is taken (`"True"` for true, one value for a list, a text for what has a `value`).

use serde_json::{Map, Value};

use super::{
    Document, Fault,
    schema::{Attribute, Kind, Mutability, Resource},
};

/// Reads a resource. Names that nobody knows are left out (RFC 7644 section 3.3 lets us), and so is what is read-only.
///
/// # Errors
/// `invalidSyntax` if it is no object; `invalidValue` that names the attribute.
pub fn read(resource: &'static Resource, value: Value) -> Result<Document, Fault> {
    let Value::Object(sent) = value else {
        return Err(Fault::InvalidSyntax("a resource is a JSON object".to_owned()));
    };
    let mut document = Map::new();
    for (name, value) in sent {
        if let Some(extension) = resource.extension(&name) {
            let value = value_of_extension(extension.attributes, &name, value)?;
            if !value.is_empty() {
                document.insert(extension.urn.to_owned(), Value::Object(value));
            }
            continue;
        }
        let (urn, name) = match name.rsplit_once(':') {
            Some((urn, name)) => (Some(urn), name),
            None => (None, name.as_str()),
        };
        let Some((extension, attribute)) = resource.attribute(urn, name) else { continue };
        let Some(value) = value_of(attribute, value)? else { continue };
        match extension {
            None => _ = document.insert(attribute.name.to_owned(), value),
            Some(urn) => {
                let place = document.entry(urn).or_insert_with(|| Value::Object(Map::new()));
                place[attribute.name] = value;
            }
        }
    }
    Ok(document)
}

fn value_of_extension(attributes: &'static [Attribute], urn: &str, value: Value) -> Result<Document, Fault> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(sent) => parts(attributes, sent),
        _ => Err(Fault::InvalidValue(format!("{urn} is an object"))),
    }
}

/// A value of an attribute; nothing if it is unassigned (RFC 7643 section 2.5) or read-only.
///
/// # Errors
/// `invalidValue` that names the attribute.
pub fn value_of(attribute: &'static Attribute, value: Value) -> Result<Option<Value>, Fault> {
    if attribute.mutability == Mutability::ReadOnly || value.is_null() {
        return Ok(None);
    }
    if !attribute.multi_valued {
        return single(attribute, value);
    }
    let sent = match value {
        Value::Array(values) => values,
        one => vec![one],
    };
    let mut values = Vec::with_capacity(sent.len());
    for value in sent {
        values.extend(single(attribute, value)?);
    }
    if values.iter().filter(|value| is_primary(value)).count() > 1 {
        return Err(Fault::InvalidValue(format!("of {} at most one is primary", attribute.name)));
    }
    Ok((!values.is_empty()).then_some(Value::Array(values)))
}

/// One value, also of a list.
///
/// # Errors
/// `invalidValue` that names the attribute.
pub fn single(attribute: &'static Attribute, value: Value) -> Result<Option<Value>, Fault> {
    let wrong = |what: &str| Err(Fault::InvalidValue(format!("{} is {what}", attribute.name)));
    match (attribute.kind, value) {
        (_, Value::Null) => Ok(None),
        (Kind::Complex(attributes), Value::Object(sent)) => {
            let value = parts(attributes, sent)?;
            Ok((!value.is_empty()).then_some(Value::Object(value)))
        }
        (Kind::Complex(_), Value::String(text)) if attribute.part(None).is_some() => {
            single(attribute, serde_json::json!({"value": text}))
        }
        (Kind::Complex(_), _) => wrong("an object"),
        (Kind::Boolean, value) => match single_boolean(&value) {
            Some(value) => Ok(Some(value.into())),
            None => wrong("true or false"),
        },
        (_, Value::String(text)) if text.contains('\0') => wrong("a text without U+0000"),
        (_, Value::String(text)) => Ok(Some(text.into())),
        (Kind::Text, Value::Number(number)) => Ok(Some(number.to_string().into())),
        _ => wrong("a text"),
    }
}

fn parts(attributes: &'static [Attribute], sent: Map<String, Value>) -> Result<Document, Fault> {
    let mut value = Map::new();
    for (name, part) in sent {
        let known = attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(&name));
        if let Some(attribute) = known
            && let Some(part) = value_of(attribute, part)?
        {
            value.insert(attribute.name.to_owned(), part);
        }
    }
    Ok(value)
}

/// Whether a value of a list is the preferred one.
pub fn is_primary(value: &Value) -> bool {
    value.get("primary") == Some(&Value::Bool(true))
}

/// True or false, also as a text.
pub fn single_boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}
