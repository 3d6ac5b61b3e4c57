//! What a service holds on a person, for whoever must show or erase all of it: two internal operations, which the gateway has no
//! route to and the OpenAPI document does not name. A service says what it holds by [`Holder`].

use std::{collections::BTreeMap, future::Future};

use axum::{
    extract::{FromRef, State},
    routing::post,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::{
    extract::Json,
    identity::{Caller, Verifier},
    problem::{Problem, Result},
};

/// Where a service shows what it holds.
pub const EXPORT_PATH: &str = "/privacy/export";
/// Where it erases it.
pub const ERASE_PATH: &str = "/privacy/erase";

/// Whom it is about: everything by which a service may know them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Person {
    /// The subject of their tokens.
    pub user_id: Uuid,
    /// What they log in with.
    pub username: String,
    /// Their address.
    pub email: String,
}

/// What became of what a service held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Erased {
    /// How many of what are gone; none if a request is repeated.
    pub removed: BTreeMap<String, u64>,
    /// What stays, and why; nothing by which the person can be told from others.
    pub kept: Vec<String>,
}

impl Erased {
    /// Adds what is gone.
    #[must_use]
    pub fn with(mut self, what: &str, count: u64) -> Self {
        self.removed.insert(what.to_owned(), count);
        self
    }

    /// Adds what stays.
    #[must_use]
    pub fn keeping(mut self, what: &str) -> Self {
        self.kept.push(what.to_owned());
        self
    }
}

/// A service that may hold something on people.
pub trait Holder: Clone + Send + Sync + 'static {
    /// All that it holds on the person, as JSON; no secret and no other person.
    fn held(&self, person: &Person) -> impl Future<Output = Result<Value>> + Send;

    /// Erases it. Repeating it is no error: an answer may have been lost.
    fn erase(&self, person: &Person) -> impl Future<Output = Result<Erased>> + Send;
}

/// The two operations. Only the client `asker` may call them, by its own name.
pub fn routes<H>(asker: &'static str) -> OpenApiRouter<H>
where
    H: Holder,
    Verifier: FromRef<H>,
{
    OpenApiRouter::new()
        .route(
            EXPORT_PATH,
            post(async move |State(holder): State<H>, caller: Caller, Json(person): Json<Person>| {
                admit(&caller, asker)?;
                holder.held(&person).await.map(Json)
            }),
        )
        .route(
            ERASE_PATH,
            post(async move |State(holder): State<H>, caller: Caller, Json(person): Json<Person>| {
                admit(&caller, asker)?;
                holder.erase(&person).await.map(Json)
            }),
        )
}

fn admit(caller: &Caller, asker: &str) -> Result<()> {
    if caller.subject() == asker && caller.client_id() == asker {
        Ok(())
    } else {
        Err(Problem::forbidden(format!("only {asker} itself may ask for this")))
    }
}
