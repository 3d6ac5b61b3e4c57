//! PATCH (RFC 7644 section 3.5.2) on a document: what the operations make of it. What directories send a little wrong is
//! taken: `Add` for `add`, dotted names and URNs as keys of a value without path, values beside `remove`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Document, Fault,
    document::{is_primary, single, value_of},
    filter::{AttributePath, Filter, Operator, Target},
    matching::{Scope, passes},
    schema::{Attribute, Mutability, Resource},
};

/// How many operations one request may have.
pub const MOST_OPERATIONS: usize = 1_000;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Add,
    Replace,
    Remove,
}

/// One operation, with its path read.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub kind: Kind,
    pub target: Place,
    /// Null without one.
    pub value: Value,
}

/// What an operation is aimed at.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    Extension(&'static str),
    Attribute(Target),
}

#[derive(Deserialize)]
struct Sent {
    op: String,
    path: Option<String>,
    #[serde(default)]
    value: Value,
}

/// Reads the body of a PATCH. An operation without path becomes one for each attribute of its value.
///
/// # Errors
/// `invalidSyntax`, `invalidPath`, `noTarget`.
pub fn read(resource: &'static Resource, body: Value) -> Result<Vec<Operation>, Fault> {
    let Value::Object(body) = body else {
        return Err(Fault::InvalidSyntax("a PATCH is a JSON object with `Operations`".to_owned()));
    };
    let list = body.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("operations")).map(|(_, list)| list);
    let Some(Value::Array(list)) = list else {
        return Err(Fault::InvalidSyntax("`Operations` is a list".to_owned()));
    };
    if list.is_empty() || list.len() > MOST_OPERATIONS {
        return Err(Fault::InvalidSyntax(format!("a PATCH has 1 to {MOST_OPERATIONS} operations")));
    }
    let mut operations = Vec::with_capacity(list.len());
    for sent in list {
        let Sent { op, path, value } = serde_json::from_value(sent).map_err(|error| {
            Fault::InvalidSyntax(format!("an operation has `op`, perhaps `path` and `value`: {error}"))
        })?;
        let kind = match op.to_ascii_lowercase().as_str() {
            "add" => Kind::Add,
            "replace" => Kind::Replace,
            "remove" => Kind::Remove,
            _ => return Err(Fault::InvalidSyntax(format!("op is add, replace or remove, not {op}"))),
        };
        match (path.filter(|path| !path.is_empty()), kind, value) {
            (Some(path), _, value) => operations.push(Operation { kind, target: place(resource, &path)?, value }),
            (None, Kind::Remove, _) => return Err(Fault::NoTarget("remove needs a path".to_owned())),
            (None, _, Value::Object(values)) => {
                for (name, value) in values {
                    // A whole resource may be sent: what is not ours to change is left out.
                    match place(resource, &name) {
                        Ok(target) if !is_read_only(resource, &target) => {
                            operations.push(Operation { kind, target, value });
                        }
                        _ => {}
                    }
                }
            }
            _ => return Err(Fault::InvalidValue("without a path the value is an object of attributes".to_owned())),
        }
    }
    Ok(operations)
}

fn place(resource: &'static Resource, path: &str) -> Result<Place, Fault> {
    if let Some(extension) = resource.extension(path.trim()) {
        return Ok(Place::Extension(extension.urn));
    }
    let target = Target::parse(path)?;
    found(resource, &target.attribute)?;
    Ok(Place::Attribute(target))
}

fn is_read_only(resource: &'static Resource, place: &Place) -> bool {
    match place {
        Place::Extension(_) => false,
        Place::Attribute(target) => {
            found(resource, &target.attribute).is_ok_and(|(_, attribute)| attribute.mutability == Mutability::ReadOnly)
        }
    }
}

/// The attribute that a path names, and the URN of the extension that it is in.
///
/// # Errors
/// `invalidPath`.
pub fn found(
    resource: &'static Resource,
    path: &AttributePath,
) -> Result<(Option<&'static str>, &'static Attribute), Fault> {
    Scope::Resource(resource).find(path).map_err(|fault| Fault::InvalidPath(fault.to_string()))
}

/// Does one operation to a document.
///
/// # Errors
/// `mutability`, `noTarget`, `invalidValue`, `invalidFilter`.
pub fn apply(resource: &'static Resource, document: &mut Document, operation: &Operation) -> Result<(), Fault> {
    let Operation { kind, target, value } = operation;
    let target = match target {
        Place::Attribute(target) => target,
        Place::Extension(urn) if *kind == Kind::Remove => {
            document.remove(*urn);
            return Ok(());
        }
        Place::Extension(urn) => {
            let Value::Object(values) = value else {
                return Err(Fault::InvalidValue(format!("{urn} is an object")));
            };
            for (name, value) in values {
                let attribute = AttributePath { urn: Some((*urn).to_owned()), name: name.clone(), part: None };
                if found(resource, &attribute).is_err() {
                    continue;
                }
                let target = Place::Attribute(Target { attribute, filter: None });
                apply(resource, document, &Operation { kind: *kind, target, value: value.clone() })?;
            }
            return Ok(());
        }
    };
    let (urn, attribute) = found(resource, &target.attribute)?;
    let part = target.attribute.part.as_deref().and_then(|part| attribute.part(Some(part)));
    let read_only = |attribute: &Attribute| attribute.mutability == Mutability::ReadOnly;
    if read_only(attribute) || part.is_some_and(read_only) {
        return Err(Fault::Mutability(format!("{} cannot be changed", target.attribute)));
    }
    if *kind == Kind::Remove && part.is_none() && target.filter.is_none() && attribute.required {
        return Err(Fault::Mutability(format!("{} is required", attribute.name)));
    }
    let container = match urn {
        None => document,
        Some(urn) => {
            let place = document.entry(urn).or_insert_with(|| Value::Object(Map::new()));
            place.as_object_mut().ok_or_else(|| Fault::InvalidValue(format!("{urn} is an object")))?
        }
    };
    if attribute.multi_valued {
        change_list(container, attribute, part, target.filter.as_ref(), *kind, value)?;
    } else if target.filter.is_some() {
        return Err(Fault::InvalidPath(format!("{} is no list", attribute.name)));
    } else {
        change_single(container, attribute, part, *kind, value)?;
    }
    Ok(())
}

/// Removes what operations have emptied.
pub fn tidy(document: &mut Document) {
    document.retain(|_, value| value.as_object().is_none_or(|value| !value.is_empty()));
}

fn change_single(
    container: &mut Document,
    attribute: &'static Attribute,
    part: Option<&'static Attribute>,
    kind: Kind,
    value: &Value,
) -> Result<(), Fault> {
    let name = attribute.name;
    let Some(part) = part else {
        let value = if kind == Kind::Remove { None } else { value_of(attribute, value.clone())? };
        match (value, container.get_mut(name)) {
            (None, _) => _ = container.remove(name),
            // The parts that are named are written, others stay.
            (Some(Value::Object(parts)), Some(Value::Object(current))) => current.extend(parts),
            (Some(value), _) => _ = container.insert(name.to_owned(), value),
        }
        return Ok(());
    };
    let value = if kind == Kind::Remove { None } else { value_of(part, value.clone())? };
    let place = container.entry(name).or_insert_with(|| Value::Object(Map::new()));
    set_part(place, part.name, value);
    if place.as_object().is_some_and(Map::is_empty) {
        container.remove(name);
    }
    Ok(())
}

fn set_part(place: &mut Value, name: &str, value: Option<Value>) {
    if let Value::Object(parts) = place {
        match value {
            Some(value) => _ = parts.insert(name.to_owned(), value),
            None => _ = parts.remove(name),
        }
    }
}

fn change_list(
    container: &mut Document,
    attribute: &'static Attribute,
    part: Option<&'static Attribute>,
    filter: Option<&Filter>,
    kind: Kind,
    value: &Value,
) -> Result<(), Fault> {
    let mut list = match container.remove(attribute.name) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let chosen = choose(attribute, &list, filter)?;
    match (kind, part) {
        (Kind::Remove, None) => {
            let sent = if value.is_null() { None } else { value_of(attribute, value.clone())? };
            let same = |element: &Value| match &sent {
                Some(Value::Array(sent)) => sent.iter().any(|sent| sent["value"] == element["value"]),
                _ => true,
            };
            let mut number = 0;
            list.retain(|element| {
                number += 1;
                !(chosen[number - 1] && same(element))
            });
        }
        (Kind::Remove, Some(part)) => {
            for (element, _) in list.iter_mut().zip(&chosen).filter(|(_, chosen)| **chosen) {
                set_part(element, part.name, None);
            }
            list.retain(|element| element.as_object().is_none_or(|parts| !parts.is_empty()));
        }
        (_, Some(part)) => {
            let value = value_of(part, value.clone())?;
            let makes_primary = part.name == "primary" && value == Some(Value::Bool(true));
            if !chosen.contains(&true) {
                list.push(begin(attribute, filter, kind)?);
            }
            let count = list.len();
            for (number, element) in list.iter_mut().enumerate() {
                if chosen.get(number).copied().unwrap_or(number + 1 == count) {
                    set_part(element, part.name, value.clone());
                } else if makes_primary {
                    no_longer_primary(element);
                }
            }
        }
        (Kind::Replace, None) if filter.is_none() => {
            list = match value_of(attribute, value.clone())? {
                Some(Value::Array(values)) => values,
                _ => Vec::new(),
            };
        }
        (_, None) if filter.is_some() => {
            if !chosen.contains(&true) && kind == Kind::Replace {
                return Err(no_match(attribute));
            }
            let Some(Value::Object(parts)) = single(attribute, value.clone())? else {
                return Err(Fault::InvalidValue(format!("an element of {} is an object", attribute.name)));
            };
            if !chosen.contains(&true) {
                list.push(Value::Object(parts.clone()));
            }
            for (element, _) in list.iter_mut().zip(&chosen).filter(|(_, chosen)| **chosen) {
                if let Value::Object(element) = element {
                    element.extend(parts.clone());
                }
            }
        }
        (_, None) => {
            let Some(Value::Array(values)) = value_of(attribute, value.clone())? else {
                restore(container, attribute, list);
                return Ok(());
            };
            if values.iter().any(is_primary) {
                list.iter_mut().for_each(no_longer_primary);
            }
            for value in values {
                if !list.contains(&value) {
                    list.push(value);
                }
            }
        }
    }
    restore(container, attribute, list);
    Ok(())
}

fn restore(container: &mut Document, attribute: &Attribute, list: Vec<Value>) {
    if !list.is_empty() {
        container.insert(attribute.name.to_owned(), Value::Array(list));
    }
}

fn no_longer_primary(element: &mut Value) {
    if is_primary(element) {
        set_part(element, "primary", Some(Value::Bool(false)));
    }
}

/// For each element, whether it passes the filter; without one all do.
fn choose(attribute: &'static Attribute, list: &[Value], filter: Option<&Filter>) -> Result<Vec<bool>, Fault> {
    let Some(filter) = filter else { return Ok(vec![true; list.len()]) };
    let scope = Scope::Element(attribute);
    passes(scope, &Document::new(), filter)?;
    let empty = Document::new();
    list.iter().map(|element| passes(scope, element.as_object().unwrap_or(&empty), filter)).collect()
}

/// A new element for an `add` that found none: what the filter asks for. Directories count on it.
fn begin(attribute: &'static Attribute, filter: Option<&Filter>, kind: Kind) -> Result<Value, Fault> {
    let mut element = Map::new();
    match filter {
        None => {}
        Some(_) if kind == Kind::Replace => return Err(no_match(attribute)),
        Some(filter) => {
            let terms = match filter {
                Filter::And(terms) => terms.as_slice(),
                one => std::slice::from_ref(one),
            };
            for term in terms {
                let Filter::Compare(path, Operator::Equal, value) = term else { return Err(no_match(attribute)) };
                let part = attribute.part(Some(&path.name)).ok_or_else(|| no_match(attribute))?;
                if let Some(value) = value_of(part, value.clone())? {
                    element.insert(part.name.to_owned(), value);
                }
            }
        }
    }
    Ok(Value::Object(element))
}

fn no_match(attribute: &Attribute) -> Fault {
    Fault::NoTarget(format!("no element of {} passes the filter", attribute.name))
}
