//! `/users/export`: everybody, as a file that streams.

use std::collections::VecDeque;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use kronos_common::{
    extract::Query,
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::allowed::CanReadUsers;
use crate::{
    App,
    attributes::Schema,
    imports::{Columns, Format},
    scim::{Document, filter::Filter},
    store::{self, attribute_filter::Attributes, users::Wanted},
    users::{Order, Position, User},
};

/// How many people are in memory at once.
const PAGE: i64 = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// `csv` or `jsonl`.
    #[param(inline)]
    format: Format,
    /// Only those whom this filter finds, as in `GET /users`.
    filter: Option<String>,
}

/// Where an export is.
struct Export {
    app: App,
    schema: Schema,
    filter: Option<Filter>,
    /// `None`: JSON Lines.
    columns: Option<Columns>,
    after: Option<Position>,
    ready: VecDeque<String>,
    is_over: bool,
}

/// Writes everybody down, the oldest first, as `POST /users/import` takes it. Who is made meanwhile may be in it; if it breaks
/// off, so does the connection.
#[utoipa::path(
    get, path = "/users/export", tag = "user-service", security(("bearer" = [])), params(ExportQuery),
    responses(
        (status = 200, description = "A line for each person", content(
            (String = "text/csv"), (String = "application/x-ndjson"),
        )),
        (status = 400, description = "`invalid_query`, `invalid_filter`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
    )
)]
pub(super) async fn export_users(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Query(query): Query<ExportQuery>,
) -> Result<Response> {
    let (schema, _) = store::attributes::schema(&app.pool).await?;
    let filter = query.filter.as_deref().filter(|filter| !filter.trim().is_empty());
    let filter = filter.map(Filter::parse).transpose()?;
    let (columns, kind, name) = match query.format {
        Format::Csv => (Some(Columns::all(&schema)), "text/csv; charset=utf-8", "users.csv"),
        Format::Jsonl => (None, "application/x-ndjson", "users.jsonl"),
    };
    let ready = columns.iter().map(Columns::header).collect();
    let mut export = Export { app, schema, filter, columns, after: None, ready, is_over: false };
    // What can be wrong with the question is wrong now, and not in the middle.
    export.read_on().await?;
    let lines = stream::try_unfold(export, |mut export| async move {
        while export.ready.is_empty() {
            if export.is_over {
                return Ok(None);
            }
            export.read_on().await.inspect_err(|problem| {
                tracing::warn!(%problem, "an export breaks off");
            })?;
        }
        let lines: String = export.ready.drain(..).collect();
        Ok::<_, Problem>(Some((lines, export)))
    });
    let disposition = format!("attachment; filename=\"{name}\"");
    let disposition = HeaderValue::try_from(disposition).expect("it is ASCII");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

impl Export {
    async fn read_on(&mut self) -> Result<()> {
        let attributes = Attributes { schema: &self.schema, keyring: self.app.sealer.keyring().ok() };
        let wanted = Wanted { text: None, filter: self.filter.as_ref().map(|filter| (filter, attributes)) };
        let pool = &self.app.pool;
        let mut users = store::users::list(pool, &wanted, Order::Created, self.after.as_ref(), PAGE).await?;
        self.app.sealer.open_all(&mut users)?;
        self.is_over = (users.len() as i64) < PAGE;
        self.after = users.last().map(|user| Position::Id(user.id));
        for user in &users {
            let record = record(user);
            self.ready.push_back(match &self.columns {
                Some(columns) => columns.write(&record),
                None => serde_json::Value::Object(record).to_string() + "\n",
            });
        }
        Ok(())
    }
}

/// A person as a line says it.
fn record(user: &User) -> Document {
    let mut record = Document::new();
    let User { id, username, email, display_name, disabled, .. } = user;
    record.insert("id".to_owned(), json!(id));
    record.insert("username".to_owned(), json!(username));
    record.insert("email".to_owned(), json!(email));
    record.insert("displayName".to_owned(), json!(display_name));
    record.insert("disabled".to_owned(), json!(disabled));
    if let Some(external_id) = &user.external_id {
        record.insert("externalId".to_owned(), json!(external_id));
    }
    record.insert("createdAt".to_owned(), json!(user.created_at));
    record.insert("updatedAt".to_owned(), json!(user.updated_at));
    record.insert("attributes".to_owned(), json!(*user.attributes));
    record
}
