//! What a filter means, for a document in memory: for PATCH, and as the model that the database's answers are held against.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    Document, Fault,
    filter::{AttributePath, Filter, Operator},
    schema::{Attribute, Kind, Resource},
};

/// What names are looked up in.
#[derive(Clone, Copy)]
pub enum Scope {
    /// A whole resource.
    Resource(&'static Resource),
    /// A value of this complex attribute.
    Element(&'static Attribute),
}

impl Scope {
    /// The attribute that a path names, and the URN of the extension that it is in.
    ///
    /// # Errors
    /// `invalidFilter`: there is none.
    pub fn find(self, path: &AttributePath) -> Result<(Option<&'static str>, &'static Attribute), Fault> {
        let found = match self {
            Self::Resource(resource) => resource.attribute(path.urn.as_deref(), &path.name),
            Self::Element(attribute) if path.urn.is_none() => {
                attribute.part(Some(&path.name)).map(|attribute| (None, attribute))
            }
            Self::Element(_) => None,
        };
        let part_exists =
            |attribute: &'static Attribute| path.part.is_none() || attribute.part(path.part.as_deref()).is_some();
        found
            .filter(|(_, attribute)| part_exists(attribute))
            .ok_or_else(|| Fault::InvalidFilter(format!("there is no attribute {path}")))
    }
}

/// Whether a document passes a filter. What it does not have equals nothing.
///
/// # Errors
/// `invalidFilter`: an attribute that does not exist, or one that cannot be compared so.
pub fn passes(scope: Scope, document: &Document, filter: &Filter) -> Result<bool, Fault> {
    match filter {
        Filter::And(filters) => {
            filters.iter().try_fold(true, |all, filter| Ok(passes(scope, document, filter)? && all))
        }
        Filter::Or(filters) => {
            filters.iter().try_fold(false, |any, filter| Ok(passes(scope, document, filter)? || any))
        }
        Filter::Not(filter) => Ok(!passes(scope, document, filter)?),
        Filter::Present(path) => Ok(!values(scope, document, path)?.1.is_empty()),
        Filter::Compare(path, operator, wanted) => {
            let (attribute, values) = values(scope, document, path)?;
            // Also without a value, so that a bad comparison is a bad one of every document.
            compare(attribute, None, *operator, wanted)?;
            if values.is_empty() {
                return compare(attribute, None, *operator, wanted);
            }
            values
                .into_iter()
                .try_fold(false, |any, value| Ok(compare(attribute, Some(value), *operator, wanted)? || any))
        }
        Filter::Element(path, filter) => {
            let (urn, attribute) = scope.find(path)?;
            if !attribute.multi_valued {
                return Err(Fault::InvalidFilter(format!("{path} has no elements")));
            }
            let scope = Scope::Element(attribute);
            passes(scope, &Document::new(), filter)?;
            let elements = place(document, urn).and_then(|place| place.get(attribute.name)).and_then(Value::as_array);
            elements
                .into_iter()
                .flatten()
                .filter_map(Value::as_object)
                .try_fold(false, |any, element| Ok(passes(scope, element, filter)? || any))
        }
    }
}

fn place<'a>(document: &'a Document, urn: Option<&str>) -> Option<&'a Document> {
    urn.map_or(Some(document), |urn| document.get(urn)?.as_object())
}

/// The values that a path leads to, and what they are values of.
fn values<'a>(
    scope: Scope,
    document: &'a Document,
    path: &AttributePath,
) -> Result<(&'static Attribute, Vec<&'a Value>), Fault> {
    let (urn, attribute) = scope.find(path)?;
    let value = place(document, urn).and_then(|place| place.get(attribute.name)).filter(|value| !value.is_null());
    let Some(part) = attribute.part(path.part.as_deref()) else {
        return Ok((attribute, value.into_iter().collect()));
    };
    let wholes: Vec<&Value> = match value {
        Some(Value::Array(values)) => values.iter().collect(),
        other => other.into_iter().collect(),
    };
    Ok((part, wholes.into_iter().filter_map(|whole| whole.get(part.name)).filter(|part| !part.is_null()).collect()))
}

/// Whether a value passes a comparison; `None`: the attribute is not there.
fn compare(
    attribute: &'static Attribute,
    value: Option<&Value>,
    operator: Operator,
    wanted: &Value,
) -> Result<bool, Fault> {
    let wanted = Wanted::of(attribute, operator, wanted)?;
    let order = match (&wanted, value) {
        (Wanted::Nothing, _) => return Ok(value.is_none() == (operator == Operator::Equal)),
        (_, None) => return Ok(operator == Operator::NotEqual),
        (Wanted::Boolean(wanted), Some(value)) => value.as_bool().unwrap_or_default().cmp(wanted),
        (Wanted::Time(wanted), Some(value)) => {
            let time = value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
            time.map_or(std::cmp::Ordering::Less, |time| time.cmp(wanted))
        }
        (Wanted::Text(wanted), Some(value)) => {
            let text = value.as_str().unwrap_or_default();
            let text = if attribute.case_exact { text.to_owned() } else { text.to_lowercase() };
            match operator {
                Operator::Contains => return Ok(text.contains(wanted.as_str())),
                Operator::StartsWith => return Ok(text.starts_with(wanted.as_str())),
                Operator::EndsWith => return Ok(text.ends_with(wanted.as_str())),
                _ => text.cmp(wanted),
            }
        }
    };
    Ok(match operator {
        Operator::Equal => order.is_eq(),
        Operator::NotEqual => order.is_ne(),
        Operator::Greater => order.is_gt(),
        Operator::GreaterOrEqual => order.is_ge(),
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Contains | Operator::StartsWith | Operator::EndsWith => false,
    })
}

/// What a filter compares with, in the type of the attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// `null`.
    Nothing,
    Boolean(bool),
    Time(DateTime<Utc>),
    /// In lower case where case does not count.
    Text(String),
}

impl Wanted {
    /// Reads it.
    ///
    /// # Errors
    /// `invalidFilter`: this attribute cannot be compared so, or not with such a value.
    pub fn of(attribute: &Attribute, operator: Operator, value: &Value) -> Result<Self, Fault> {
        let name = attribute.name;
        let fault = |what: &str| Err(Fault::InvalidFilter(format!("{name} {operator}: {what}")));
        let equality = matches!(operator, Operator::Equal | Operator::NotEqual);
        let in_text = matches!(operator, Operator::Contains | Operator::StartsWith | Operator::EndsWith);
        if attribute.mutability == super::schema::Mutability::WriteOnly {
            return fault("nobody can ask for this");
        }
        if value.is_null() {
            return if equality { Ok(Self::Nothing) } else { fault("null can only be asked for with eq and ne") };
        }
        match attribute.kind {
            Kind::Complex(_) => fault("it has parts: name one of them"),
            Kind::Boolean if !equality => fault("true and false are in no order"),
            Kind::Boolean => match super::document::single_boolean(value) {
                Some(value) => Ok(Self::Boolean(value)),
                None => fault("the value is true or false"),
            },
            Kind::DateTime if in_text => fault("a time is not a text"),
            Kind::DateTime => match value.as_str().and_then(|text| text.parse().ok()) {
                Some(time) => Ok(Self::Time(time)),
                None => fault("the value is a time such as \"2026-11-21T20:00:00Z\""),
            },
            Kind::Binary if !equality => fault("base64 is in no order"),
            Kind::Text | Kind::Binary | Kind::Reference(_) => match value {
                Value::String(text) if attribute.case_exact => Ok(Self::Text(text.clone())),
                Value::String(text) => Ok(Self::Text(text.to_lowercase())),
                Value::Number(number) => Ok(Self::Text(number.to_string())),
                _ => fault("the value is a text in quotes"),
            },
        }
    }
}
