//! A value as the server writes it, as JSON. What JSON can hold without losing a digit becomes JSON; the rest stays the
//! server's text.

use serde_json::Value;

/// The JSON of one cell: `type_name` as the server names it in capitals, `text` in the server's own form.
pub fn json(type_name: &str, text: Option<&str>) -> Value {
    let Some(text) = text else { return Value::Null };
    match type_name {
        "BOOL" => Value::Bool(text == "t"),
        "INT2" | "INT4" | "INT8" | "OID" => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        // NaN and the infinities are no JSON.
        "FLOAT4" | "FLOAT8" => {
            text.parse::<f64>().ok().map(Value::from).filter(|v| !v.is_null()).unwrap_or_else(|| text.into())
        }
        "NUMERIC" => exact_number(text).unwrap_or_else(|| text.into()),
        "JSON" | "JSONB" => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        "TIMESTAMPTZ" => rfc3339(text).into(),
        _ => text.into(),
    }
}

/// A decimal number, if a JSON number keeps every digit of it.
fn exact_number(text: &str) -> Option<Value> {
    if let Ok(integer) = text.parse::<i64>() {
        return Some(integer.into());
    }
    let float: f64 = text.parse().ok()?;
    let value = serde_json::Number::from_f64(float)?;
    (value.to_string() == text).then_some(Value::Number(value))
}

/// `2026-11-21 10:00:00.5+00` → `2026-11-21T10:00:00.5Z`; the session's time zone is UTC. The infinities stay.
fn rfc3339(text: &str) -> String {
    match text.strip_suffix("+00").and_then(|text| text.split_once(' ')) {
        Some((date, time)) => format!("{date}T{time}Z"),
        None => text.to_owned(),
    }
}
