//! `attributes` and `excludedAttributes` (RFC 7644 section 3.9): which part of a resource is sent.

use serde_json::Value;

use super::{
    Document, Fault,
    filter::AttributePath,
    schema::{ENTERPRISE, Resource, named},
};

/// Which attributes are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Projection {
    /// All that are returned by default.
    #[default]
    Default,
    Only(Vec<AttributePath>),
    Without(Vec<AttributePath>),
}

impl Projection {
    /// Reads the two parameters, lists with commas; the first one wins.
    ///
    /// # Errors
    /// `invalidValue`: what stands there is no name.
    pub fn parse(only: Option<&str>, without: Option<&str>) -> Result<Self, Fault> {
        match (only.filter(|list| !list.trim().is_empty()), without.filter(|list| !list.trim().is_empty())) {
            (Some(list), _) => paths(list).map(Self::Only),
            (None, Some(list)) => paths(list).map(Self::Without),
            (None, None) => Ok(Self::Default),
        }
    }

    /// Whether an attribute of the core schema, or a part of it, is sent: what is not need not be looked for.
    pub fn has(&self, name: &str) -> bool {
        let is_it = |path: &AttributePath| path.name.eq_ignore_ascii_case(name);
        match self {
            Self::Default => true,
            Self::Only(paths) => paths.iter().any(is_it),
            Self::Without(paths) => !paths.iter().any(|path| is_it(path) && path.part.is_none()),
        }
    }

    /// The part of a resource that is sent; its `schemas` and `id` always are.
    pub fn of(&self, resource: &'static Resource, document: Document) -> Document {
        match self {
            Self::Default => document,
            Self::Only(paths) => only(resource, &document, paths),
            Self::Without(paths) => without(resource, document, paths),
        }
    }
}

fn paths(list: &str) -> Result<Vec<AttributePath>, Fault> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            // A whole extension reads as an attribute of a schema that nobody has.
            if name.eq_ignore_ascii_case(ENTERPRISE) {
                return Ok(AttributePath { urn: None, name: ENTERPRISE.to_owned(), part: None });
            }
            AttributePath::parse(name).ok_or_else(|| Fault::InvalidValue(format!("{name} is no attribute's name")))
        })
        .collect()
}

fn only(resource: &'static Resource, document: &Document, paths: &[AttributePath]) -> Document {
    let mut sent = Document::new();
    for name in ["schemas", "id"] {
        sent.extend(document.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    for path in paths {
        if let Some(extension) = resource.extension(&path.name) {
            sent.extend(document.get(extension.urn).map(|value| (extension.urn.to_owned(), value.clone())));
            continue;
        }
        let Some((urn, attribute)) = resource.attribute(path.urn.as_deref(), &path.name) else { continue };
        let source = urn.map_or(Some(document), |urn| document.get(urn).and_then(Value::as_object));
        let Some(value) = source.and_then(|source| source.get(attribute.name)) else { continue };
        let target = match urn {
            None => &mut sent,
            Some(urn) => match sent.entry(urn).or_insert_with(|| Document::new().into()) {
                Value::Object(place) => place,
                _ => continue,
            },
        };
        match path.part.as_deref() {
            None => _ = target.insert(attribute.name.to_owned(), value.clone()),
            Some(part) => {
                let Some(part) = named(attribute.parts(), part) else { continue };
                add_part(target.entry(attribute.name).or_insert(Value::Null), value, part.name);
            }
        }
    }
    sent
}

/// Adds a part of `value`, element by element, to what of it is sent already.
fn add_part(sent: &mut Value, value: &Value, part: &str) {
    match value {
        Value::Array(elements) => {
            if !sent.is_array() {
                *sent = Value::Array(vec![Value::Null; elements.len()]);
            }
            if let Value::Array(sent) = sent {
                sent.iter_mut().zip(elements).for_each(|(sent, element)| add_part(sent, element, part));
            }
        }
        whole => {
            if sent.is_null() {
                *sent = Value::Object(Document::new());
            }
            if let (Value::Object(sent), Some(value)) = (sent, whole.get(part)) {
                sent.insert(part.to_owned(), value.clone());
            }
        }
    }
}

fn without(resource: &'static Resource, mut document: Document, paths: &[AttributePath]) -> Document {
    for path in paths {
        if let Some(extension) = resource.extension(&path.name) {
            document.remove(extension.urn);
            continue;
        }
        let Some((urn, attribute)) = resource.attribute(path.urn.as_deref(), &path.name) else { continue };
        if attribute.name == "id" {
            continue;
        }
        let place = match urn {
            None => Some(&mut document),
            Some(urn) => document.get_mut(urn).and_then(Value::as_object_mut),
        };
        let Some(place) = place else { continue };
        match path.part.as_deref().and_then(|part| named(attribute.parts(), part)) {
            None => _ = place.remove(attribute.name),
            Some(part) => match place.get_mut(attribute.name) {
                Some(Value::Array(elements)) => {
                    elements.iter_mut().filter_map(Value::as_object_mut).for_each(|element| {
                        element.remove(part.name);
                    });
                }
                Some(Value::Object(whole)) => _ = whole.remove(part.name),
                _ => {}
            },
        }
    }
    document
}
