//! Filters on attributes that the administrator has defined (`attributes.name` in `GET /users?filter=`), as SQL. Equality is
//! found by an index, and so are texts of three characters or more; sealed attributes are found by their blind indexes alone.

use kronos_common::seal::Keyring;
use serde_json::{Value, json};
use sqlx::{Postgres, QueryBuilder, types::Json};

use super::scim::{Pushed, push_has_text};
use crate::{
    attributes::{Definition, Kind, Schema},
    scim::{Fault, filter::Operator},
    sealing,
};

/// What filters can name.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) keyring: Option<&'a Keyring>,
}

impl<'a> Attributes<'a> {
    fn find(&self, name: &str) -> Result<(&'a str, &'a Definition), Fault> {
        self.schema.find(name).ok_or_else(|| fault(name, "the schema has no such attribute"))
    }
}

fn fault(name: &str, what: &str) -> Fault {
    Fault::InvalidFilter(format!("attributes.{name}: {what}"))
}

/// People `r` who have the attribute.
pub(super) fn present(query: &mut QueryBuilder<Postgres>, attributes: &Attributes<'_>, name: &str) -> Pushed {
    let (name, definition) = attributes.find(name)?;
    if definition.sealed {
        query.push("r.blind @> array[").push_bind(name.to_owned()).push("]");
    } else {
        query.push("r.attributes ? ").push_bind(name.to_owned());
    }
    Ok(())
}

/// People `r` of whom a comparison is true; of a list, of one of its values.
pub(super) fn compare(
    query: &mut QueryBuilder<Postgres>,
    attributes: &Attributes<'_>,
    name: &str,
    operator: Operator,
    value: &Value,
) -> Pushed {
    let (name, definition) = attributes.find(name)?;
    let equality = matches!(operator, Operator::Equal | Operator::NotEqual);
    if value.is_null() && equality {
        query.push(if operator == Operator::Equal { "not (" } else { "(" });
        present(query, attributes, name)?;
        query.push(")");
        return Ok(());
    }
    let single = Definition { kind: single(definition.kind), max_length: Some(u32::MAX), ..definition.clone() };
    let value = single.value(value.clone()).map_err(|(_, detail)| fault(name, &detail))?;
    if definition.sealed {
        return compare_sealed(query, attributes.keyring, name, operator, &value);
    }
    let is_list = definition.kind == Kind::StringList;
    if equality {
        query.push(if operator == Operator::NotEqual { "not (" } else { "(" });
        let value = if is_list { json!([value]) } else { value };
        query.push("r.attributes @> ").push_bind(Json(json!({name: value}))).push(")");
        return Ok(());
    }
    let in_text = matches!(operator, Operator::Contains | Operator::StartsWith | Operator::EndsWith);
    let text = match (&value, single.kind) {
        (_, Kind::Boolean) => return Err(fault(name, "true and false are in no order")),
        (Value::String(text), Kind::String) => Some(text),
        _ if in_text => return Err(fault(name, "this is not a text")),
        _ => None,
    };
    query.push("(");
    if let Some(text) = text.filter(|text| in_text && text.chars().count() >= super::scim::SHORTEST) {
        push_has_text(query, text);
        query.push(" and ");
    }
    if is_list {
        query.push("exists (select from jsonb_array_elements_text(r.attributes -> ").push_bind(name.to_owned());
        query.push(") as x (e) where ");
    }
    let column = |query: &mut QueryBuilder<Postgres>| {
        if is_list {
            query.push("e");
        } else {
            query.push("(r.attributes ->> ").push_bind(name.to_owned()).push(")");
        }
    };
    match (operator, &value) {
        (Operator::Contains, Value::String(text)) => {
            query.push("strpos(");
            column(query);
            query.push(", ").push_bind(text.clone()).push(") > 0");
        }
        (Operator::StartsWith, Value::String(text)) => {
            query.push("starts_with(");
            column(query);
            query.push(", ").push_bind(text.clone()).push(")");
        }
        (Operator::EndsWith, Value::String(text)) => {
            query.push("right(");
            column(query);
            query.push(", char_length(").push_bind(text.clone()).push(")) = ").push_bind(text.clone());
        }
        (_, Value::String(text)) => {
            column(query);
            query.push(format!(" collate \"C\" {} ", sign(operator))).push_bind(text.clone());
        }
        // Only numbers are left; as JSON, so that whole ones stay exact.
        (_, number) => {
            query.push("(r.attributes -> ").push_bind(name.to_owned()).push(format!(") {} ", sign(operator)));
            query.push_bind(Json(number.clone()));
        }
    }
    query.push(if is_list { "))" } else { ")" });
    Ok(())
}

fn compare_sealed(
    query: &mut QueryBuilder<Postgres>,
    keyring: Option<&Keyring>,
    name: &str,
    operator: Operator,
    value: &Value,
) -> Pushed {
    let Some(keyring) = keyring else { return Err(fault(name, "there is no sealing key")) };
    match operator {
        Operator::Equal => query.push("r.blind && "),
        Operator::NotEqual => query.push("not r.blind && "),
        _ => return Err(fault(name, "it is sealed: only eq, ne and pr can be asked for")),
    };
    query.push_bind(sealing::terms(keyring, name, value));
    Ok(())
}

/// What one value of it is.
fn single(kind: Kind) -> Kind {
    if kind == Kind::StringList { Kind::String } else { kind }
}

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Greater => ">",
        Operator::GreaterOrEqual => ">=",
        Operator::Less => "<",
        _ => "<=",
    }
}
