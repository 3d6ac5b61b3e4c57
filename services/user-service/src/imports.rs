//! Imports of people: what a line of a file says of a person. CSV and JSON Lines become the same records; reading them off the
//! wire is `imports/lines.rs`'s.

pub mod lines;

use chrono::{DateTime, Utc};
use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    attributes::{Kind, Schema},
    scim::Document,
    users::{DisplayName, Email, Username},
};

/// How many problems of an import are kept; all are counted.
pub const MOST_PROBLEMS: i64 = 1_000;
/// The longest line, in bytes.
pub const LONGEST_LINE: usize = 65_536;
/// What an export says beside, and what whoever is imported gets anew.
const OWN: [&str; 3] = ["id", "createdAt", "updatedAt"];

/// What is done if lines are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Nobody is made.
    #[default]
    AllOrNothing,
    /// The others are made.
    Skip,
}

/// How people are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// RFC 4180, UTF-8, with a header line.
    Csv,
    /// A JSON object on each line.
    Jsonl,
}

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Import {
    pub id: Uuid,
    /// `allOrNothing` or `skip`.
    #[schema(value_type = Mode)]
    pub mode: String,
    /// `receiving`, `waiting` (received, and being carried out), `done`, or `failed`: nobody was made, or not all were.
    pub state: String,
    /// How many lines there are, without a header.
    pub lines: i64,
    /// How many people were made.
    pub created: i64,
    /// How many lines were refused.
    pub refused: i64,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl Import {
    /// Whether nothing happens any more.
    pub fn is_over(&self) -> bool {
        self.finished_at.is_some()
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
pub struct LineProblem {
    /// The first one is 1; in CSV that is the header.
    pub line: i64,
    /// Into the line as a person.
    pub pointer: String,
    pub code: String,
    pub detail: String,
}

/// A person to be made.
#[derive(Debug, Clone)]
pub struct Imported {
    pub username: Username,
    pub email: Email,
    pub display_name: DisplayName,
    pub disabled: bool,
    pub external_id: Option<String>,
    pub attributes: Document,
}

/// Reads what a line says.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(mut record: Document, schema: &Schema) -> Result<Imported, Vec<FieldError>> {
    let mut errors = Vec::new();
    for name in OWN {
        record.remove(name);
    }
    let username = text(&mut record, "username", &mut errors).and_then(parsed(Username::try_from, "username"));
    let username = kept(username, &mut errors);
    let email = text(&mut record, "email", &mut errors).and_then(parsed(Email::try_from, "email"));
    let email = kept(email, &mut errors);
    let display_name =
        text(&mut record, "displayName", &mut errors).and_then(parsed(DisplayName::try_from, "displayName"));
    let display_name = kept(display_name, &mut errors);
    let mut wrong = |name: &str, what: &str| errors.push(FieldError::new(format!("/{name}"), "wrong_type", what));
    let disabled = match record.remove("disabled") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(disabled)) => disabled,
        Some(_) => {
            wrong("disabled", "true or false");
            false
        }
    };
    let external_id = match record.remove("externalId") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if id.chars().count() <= 256 && !id.contains('\0') => Some(id),
        Some(_) => {
            wrong("externalId", "a text of at most 256 characters");
            None
        }
    };
    let attributes = match record.remove("attributes") {
        None | Some(Value::Null) => Document::new(),
        Some(Value::Object(attributes)) => attributes,
        Some(_) => {
            wrong("attributes", "an object");
            Document::new()
        }
    };
    let attributes = schema.read(attributes).unwrap_or_else(|found| {
        errors.extend(found);
        Document::new()
    });
    errors.extend(
        record
            .keys()
            .map(|name| FieldError::new(format!("/{name}"), "unknown_field", "there is no such field: remove it")),
    );
    match (username, email, display_name) {
        (Some(username), Some(email), Some(display_name)) if errors.is_empty() => {
            Ok(Imported { username, email, display_name, disabled, external_id, attributes })
        }
        _ => Err(errors),
    }
}

fn text(record: &mut Document, name: &'static str, errors: &mut Vec<FieldError>) -> Option<String> {
    let (code, detail) = match record.remove(name) {
        Some(Value::String(text)) => return Some(text),
        None | Some(Value::Null) => ("missing", "this field is required"),
        Some(_) => ("wrong_type", "a text"),
    };
    errors.push(FieldError::new(format!("/{name}"), code, detail));
    None
}

fn parsed<T>(
    parse: fn(String) -> Result<T, &'static str>,
    name: &'static str,
) -> impl FnOnce(String) -> Option<Result<T, FieldError>> {
    move |text| Some(parse(text).map_err(|rule| FieldError::new(format!("/{name}"), "invalid", rule)))
}

fn kept<T>(parsed: Option<Result<T, FieldError>>, errors: &mut Vec<FieldError>) -> Option<T> {
    parsed?.map_err(|error| errors.push(error)).ok()
}

/// The columns of a CSV file.
#[derive(Debug, Clone)]
pub struct Columns(Vec<String>);

impl Columns {
    /// Those of an export.
    pub fn all(schema: &Schema) -> Self {
        let own = ["id", "username", "email", "displayName", "disabled", "externalId", "createdAt", "updatedAt"];
        let attributes = schema.attributes.keys().map(|name| format!("attributes.{name}"));
        Self(own.into_iter().map(str::to_owned).chain(attributes).collect())
    }

    /// Reads a header line.
    ///
    /// # Errors
    /// Columns that nobody knows, or that stand twice.
    pub fn read(names: Vec<String>, schema: &Schema) -> Result<Self, Vec<FieldError>> {
        let known = Self::all(schema);
        let mut errors = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let fault = if !known.0.contains(name) {
                ("unknown_field", format!("there is no such column; there are {}", known.0.join(", ")))
            } else if names[..number].contains(name) {
                ("duplicate", "this column stands twice".to_owned())
            } else {
                continue;
            };
            errors.push(FieldError::new(format!("/{}", name.replace('~', "~0").replace('/', "~1")), fault.0, fault.1));
        }
        for name in ["username", "email", "displayName"] {
            if !names.iter().any(|column| column == name) {
                errors.push(FieldError::new(format!("/{name}"), "missing", "this column is required"));
            }
        }
        if errors.is_empty() { Ok(Self(names)) } else { Err(errors) }
    }

    /// What a line of cells says; an empty cell says nothing.
    ///
    /// # Errors
    /// More or fewer cells than columns.
    pub fn record(&self, cells: Vec<String>, schema: &Schema) -> Result<Document, FieldError> {
        if cells.len() != self.0.len() {
            let detail = format!("{} cells stand under {} columns", cells.len(), self.0.len());
            return Err(FieldError::new("", "wrong_cells", detail));
        }
        let (mut record, mut attributes) = (Document::new(), Document::new());
        for (name, cell) in self.0.iter().zip(cells) {
            match name.strip_prefix("attributes.") {
                _ if cell.is_empty() => {}
                Some(attribute) => {
                    let kind = schema.attributes.get(attribute).map_or(Kind::String, |definition| definition.kind);
                    attributes.insert(attribute.to_owned(), value(kind, cell));
                }
                None if name == "disabled" => _ = record.insert(name.clone(), value(Kind::Boolean, cell)),
                None => _ = record.insert(name.clone(), cell.into()),
            }
        }
        record.insert("attributes".to_owned(), attributes.into());
        Ok(record)
    }

    /// The header line.
    pub fn header(&self) -> String {
        line(self.0.iter().map(String::as_str))
    }

    /// A line of what a record says.
    pub fn write(&self, record: &Document) -> String {
        let cells = self.0.iter().map(|name| match name.strip_prefix("attributes.") {
            Some(attribute) => record.get("attributes").and_then(|attributes| attributes.get(attribute)),
            None => record.get(name),
        });
        let cells: Vec<String> = cells
            .map(|value| match value {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            })
            .collect();
        line(cells.iter().map(String::as_str))
    }
}

/// A cell as a value of a type; as a text, which is then refused, if it is none.
fn value(kind: Kind, cell: String) -> Value {
    match kind {
        Kind::String | Kind::DateTime => cell.into(),
        Kind::Integer | Kind::Number | Kind::Boolean | Kind::StringList => {
            serde_json::from_str(&cell).unwrap_or(Value::String(cell))
        }
    }
}

/// RFC 4180.
fn line<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let quoted = cells.map(|cell| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.to_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(",") + "\r\n"
}
