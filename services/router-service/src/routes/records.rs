//! What the handlers of `/routes`, `/upstreams` and `/quotas` have in common: pages by name, ETags, and changes that are live here
//! before they are answered.

use axum::{
    extract::{FromRequest, Request},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use kronos_common::{
    etag::{ETag, IfMatch},
    extract::{Json, parse},
    identity::Allowed,
    page::{Limit, Page, PageQuery},
    problem::{Problem, Result},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{CanWriteRoutes, actor, take_over};
use crate::{
    App,
    store::{Stored, records::Record},
};

/// What the gateway adds to a record when it shows it.
const ADDED: [&str; 4] = ["id", "createdAt", "updatedAt", "state"];

/// A record as a caller sends it back: what was read may be written as it was, what the gateway had added means nothing.
pub struct Written<S>(pub S);

impl<S: Send + Sync, T: Record + ToSchema + 'static> FromRequest<S> for Written<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let Json(mut document) = Json::<Value>::from_request(request, state).await?;
        if let Some(fields) = document.as_object_mut() {
            fields.retain(|name, _| !ADDED.contains(&name.as_str()));
        }
        parse(document.to_string().as_bytes()).map(Self)
    }
}

/// A record as callers see it.
pub trait Shown: Serialize {
    type Spec: Record;
    /// Where all of them are.
    const PATH: &'static str;

    fn of(app: &App, stored: Stored<Self::Spec>) -> Self;
}

pub async fn list<R: Shown>(app: &App, query: PageQuery) -> Result<Json<Page<R>>> {
    let after: String = query.cursor.map(|cursor| cursor.decode()).transpose()?.unwrap_or_default();
    let rows = app.store.list(&after, query.limit.fetch()).await?;
    Ok(page(app, rows, query.limit))
}

/// `rows`: one more than the page has, if there are more.
pub fn page<R: Shown>(app: &App, rows: Vec<Stored<R::Spec>>, limit: Limit) -> Json<Page<R>> {
    let page = Page::new(rows, limit, |row| row.spec.name().as_str().to_owned());
    Json(page.map(|stored| R::of(app, stored)))
}

pub async fn create<R: Shown>(app: &App, allowed: &Allowed<CanWriteRoutes>, spec: &R::Spec) -> Result<Response> {
    check(spec)?;
    let mut change = app.store.change(actor(allowed)).await?;
    let stored = change.insert(None, spec).await?;
    take_over(app, change.commit(Some(stored.id)).await?).await?;
    let location = [(header::LOCATION, format!("{}/{}", R::PATH, stored.id))];
    Ok((StatusCode::CREATED, location, show_stored::<R>(app, stored)).into_response())
}

pub async fn show<R: Shown>(app: &App, id: Uuid) -> Result<Response> {
    let stored = app.store.get(id).await?;
    Ok(show_stored::<R>(app, stored).into_response())
}

pub async fn replace<R: Shown>(
    app: &App,
    allowed: &Allowed<CanWriteRoutes>,
    id: Uuid,
    if_match: &IfMatch,
    spec: &R::Spec,
) -> Result<Response> {
    check(spec)?;
    let mut change = app.store.change(actor(allowed)).await?;
    if_match.check(&ETag::of_version(change.revision::<R::Spec>(id).await?))?;
    let stored = change.update(id, spec).await?;
    take_over(app, change.commit(Some(id)).await?).await?;
    Ok(show_stored::<R>(app, stored).into_response())
}

pub async fn delete<R: Shown>(
    app: &App,
    allowed: &Allowed<CanWriteRoutes>,
    id: Uuid,
    if_match: &IfMatch,
) -> Result<StatusCode> {
    let mut change = app.store.change(actor(allowed)).await?;
    if_match.check(&ETag::of_version(change.revision::<R::Spec>(id).await?))?;
    change.delete::<R::Spec>(id).await?;
    take_over(app, change.commit(None).await?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn show_stored<R: Shown>(app: &App, stored: Stored<R::Spec>) -> impl IntoResponse + use<R> {
    (ETag::of_version(stored.revision), Json(R::of(app, stored)))
}

fn check(spec: &impl Record) -> Result<()> {
    let errors = spec.errors();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}
