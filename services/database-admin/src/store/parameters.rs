//! JSON values as parameters: each becomes the type that the server has inferred for its `$n`.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde_json::Value;
use sqlx::{
    Arguments as _, TypeInfo as _,
    postgres::{PgArguments, PgTypeInfo},
    types::Json,
};
use uuid::Uuid;

use super::reader::ReadError;

/// Binds `params` by `types`.
///
/// # Errors
/// The first value that does not fit, by its index from 0, or a wrong number of values.
pub fn bind(types: &[PgTypeInfo], params: &[Value]) -> Result<PgArguments, ReadError> {
    if types.len() != params.len() {
        let detail = format!("the statement has {} parameters, {} values came", types.len(), params.len());
        return Err(ReadError::Parameter { index: params.len().min(types.len()), detail });
    }
    let mut arguments = PgArguments::default();
    for (index, (info, value)) in types.iter().zip(params).enumerate() {
        let fits = add(&mut arguments, info.name(), value);
        fits.map_err(|detail| ReadError::Parameter { index, detail })?;
    }
    Ok(arguments)
}

fn add(arguments: &mut PgArguments, type_name: &str, value: &Value) -> Result<(), String> {
    /// Reads the value by a function, null as null.
    macro_rules! bind {
        ($type:ty, $read:expr, $wanted:literal) => {{
            let value: Option<$type> = match value {
                Value::Null => None,
                value => Some(
                    $read(value)
                        .ok_or_else(|| format!("it is {}, send {}", type_name.to_ascii_lowercase(), $wanted))?,
                ),
            };
            arguments.add(value)
        }};
    }
    fn parsed<T: std::str::FromStr>(value: &Value) -> Option<T> {
        value.as_str()?.parse().ok()
    }
    let added = match type_name {
        "BOOL" => bind!(bool, Value::as_bool, "true or false"),
        "INT2" => bind!(i16, |v: &Value| v.as_i64().and_then(|n| n.try_into().ok()), "a whole number of 16 bits"),
        "INT4" => bind!(i32, |v: &Value| v.as_i64().and_then(|n| n.try_into().ok()), "a whole number of 32 bits"),
        "INT8" => bind!(i64, Value::as_i64, "a whole number of 64 bits"),
        #[expect(clippy::cast_possible_truncation, reason = "the column has no more digits than that")]
        "FLOAT4" => bind!(f32, |v: &Value| v.as_f64().map(|n| n as f32), "a number"),
        "FLOAT8" => bind!(f64, Value::as_f64, "a number"),
        "TEXT" | "VARCHAR" | "CHAR" | "BPCHAR" | "NAME" => {
            bind!(String, |v: &Value| v.as_str().filter(|s| !s.contains('\0')).map(str::to_owned), "a text")
        }
        "UUID" => bind!(Uuid, parsed, "a UUID"),
        "TIMESTAMPTZ" => bind!(DateTime<Utc>, parsed, "a time such as 2026-11-21T10:00:00Z"),
        "TIMESTAMP" => bind!(NaiveDateTime, parsed, "a time such as 2026-11-21T10:00:00"),
        "DATE" => bind!(NaiveDate, parsed, "a date such as 2026-11-21"),
        "JSON" | "JSONB" => arguments.add(Json(value.clone())),
        other => {
            let other = other.to_ascii_lowercase();
            return Err(format!("it is {other}, which has no JSON form: write the parameter as $1::text::{other}"));
        }
    };
    added.map_err(|error| error.to_string())
}
