//! `POST /db/query` and `GET /db/tables`.

use axum::{
    extract::State,
    http::{HeaderMap, header},
};
use kronos_common::{
    extract::Json,
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::CanQuery;
use crate::{App, queries::Question, query::MAX_SQL_BYTES};

/// SQL text: 1 to 65,536 bytes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 65536)]
pub struct SqlText(String);

impl TryFrom<String> for SqlText {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if (1..=MAX_SQL_BYTES).contains(&text.len()) { Ok(Self(text)) } else { Err("sql has 1 to 65536 bytes") }
    }
}

/// How many rows: 1 to 10,000.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(try_from = "u32")]
#[schema(value_type = u32, minimum = 1, maximum = 10000)]
pub struct MaxRows(u32);

impl TryFrom<u32> for MaxRows {
    type Error = &'static str;

    fn try_from(rows: u32) -> std::result::Result<Self, Self::Error> {
        if (1..=10_000).contains(&rows) { Ok(Self(rows)) } else { Err("maxRows is 1 to 10000") }
    }
}

/// Values for the placeholders: at most 100.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(try_from = "Vec<Value>")]
#[schema(value_type = Vec<Value>, max_items = 100)]
pub struct Params(Vec<Value>);

impl TryFrom<Vec<Value>> for Params {
    type Error = &'static str;

    fn try_from(values: Vec<Value>) -> std::result::Result<Self, Self::Error> {
        if values.len() <= 100 { Ok(Self(values)) } else { Err("params has at most 100 values") }
    }
}

/// A query.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryRequest {
    /// One SELECT, VALUES, EXPLAIN or SHOW; tables as `schema.table`.
    sql: SqlText,
    /// The values of `$1`, `$2`, ….
    #[serde(default)]
    #[schema(required = false)]
    params: Params,
    /// How many rows at most; 1,000 if absent.
    #[serde(default)]
    max_rows: Option<MaxRows>,
}

/// A column of an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct QueryColumn {
    name: String,
    /// PostgreSQL's name of the type.
    #[serde(rename = "type")]
    type_name: String,
}

/// An answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryAnswer {
    columns: Vec<QueryColumn>,
    /// Cells as JSON; a number that JSON would round is a string.
    rows: Vec<Vec<Value>>,
    row_count: usize,
    /// There was more, but for `maxRows` or the limit of bytes.
    truncated: bool,
    /// How long this answer took, in milliseconds.
    duration_ms: f64,
    /// Kept from the same question a few seconds ago; `Cache-Control: no-cache` asks anew.
    cached: bool,
}

/// Run a query that can change nothing.
///
/// It runs as a role that may read a few tables only, in a read-only transaction, after its syntax tree was judged. What
/// is refused names the rule in `errors[0].code` and the place in its detail; it is recorded, as everything asked here is.
#[utoipa::path(
    post,
    path = "/db/query",
    tag = "database-admin",
    request_body = QueryRequest,
    responses(
        (status = 200, body = QueryAnswer),
        (status = 400, description = "Malformed JSON", body = ProblemBody),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 403, description = "Needs `db:query`", body = ProblemBody),
        (status = 413, description = "The body is too large", body = ProblemBody),
        (status = 415, description = "Not JSON", body = ProblemBody),
        (status = 422, description = "Refused, or not valid", body = ProblemBody),
        (status = 503, description = "The database is away or all readers are busy", body = ProblemBody),
    ),
    security(("bearer" = []))
)]
pub(super) async fn run_query(
    State(app): State<App>,
    allowed: Allowed<CanQuery>,
    headers: HeaderMap,
    Json(request): Json<QueryRequest>,
) -> Result<Json<QueryAnswer>> {
    let no_cache = |value: &header::HeaderValue| value.to_str().is_ok_and(|value| value.contains("no-cache"));
    let question = Question {
        sql: request.sql.0,
        params: request.params.0,
        max_rows: request.max_rows.map(|rows| rows.0),
        fresh: headers.get(header::CACHE_CONTROL).is_some_and(no_cache),
    };
    let claims = allowed.caller.claims;
    // A task of its own: a caller who hangs up must not leave a connection in the middle of something.
    let answered = tokio::spawn(async move { app.queries.answer(question, &claims).await });
    let answered = answered.await.map_err(Problem::internal)??;
    let answer = &answered.answer;
    let columns = answer.columns.iter();
    Ok(Json(QueryAnswer {
        columns: columns.map(|c| QueryColumn { name: c.name.clone(), type_name: c.type_name.clone() }).collect(),
        rows: answer.rows.clone(),
        row_count: answer.rows.len(),
        truncated: answer.truncated,
        duration_ms: answered.duration_ms,
        cached: answered.cached,
    }))
}

/// A table that can be queried.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadableTable {
    schema: String,
    name: String,
    /// The columns that can be read; there may be others.
    columns: Vec<QueryColumn>,
}

/// What can be queried.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadableTables {
    items: Vec<ReadableTable>,
}

/// List the tables and columns that `POST /db/query` can read.
#[utoipa::path(
    get,
    path = "/db/tables",
    tag = "database-admin",
    responses(
        (status = 200, body = ReadableTables),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 403, description = "Needs `db:query`", body = ProblemBody),
        (status = 503, description = "The database is away", body = ProblemBody),
    ),
    security(("bearer" = []))
)]
pub(super) async fn list_tables(State(app): State<App>, _: Allowed<CanQuery>) -> Result<Json<ReadableTables>> {
    let mut items: Vec<ReadableTable> = Vec::new();
    for found in app.queries.readable().await?.iter() {
        let column = QueryColumn { name: found.column_name.clone(), type_name: found.type_name.clone() };
        match items.last_mut() {
            Some(table) if table.schema == found.schema && table.name == found.table_name => table.columns.push(column),
            _ => items.push(ReadableTable {
                schema: found.schema.clone(),
                name: found.table_name.clone(),
                columns: vec![column],
            }),
        }
    }
    Ok(Json(ReadableTables { items }))
}
