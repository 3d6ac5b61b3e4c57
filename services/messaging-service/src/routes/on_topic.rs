//! Authorisation by topic, as an extractor: whoever holds the permission everywhere, or on the topic at hand. The caller comes
//! out of it only for a topic, so that a handler can't forget to ask.

use std::marker::PhantomData;

use axum::{
    extract::{FromRequest as _, FromRequestParts, Request},
    http::request::Parts,
};
use kronos_common::{
    extract::Json,
    identity::{Caller, Permission},
    problem::{Problem, Result},
};
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use crate::{App, bridge};

/// Somebody who may hold the permission `P` on some topic: 401 without a valid token.
pub(crate) struct On<P> {
    caller: Caller,
    permission: PhantomData<fn() -> P>,
}

impl<P: Permission> FromRequestParts<App> for On<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        Ok(Self { caller: Caller::from_request_parts(parts, app).await?, permission: PhantomData })
    }
}

impl<P: Permission> On<P> {
    /// The caller, if it holds the permission on this topic. Asked before whether there is such a topic.
    ///
    /// # Errors
    /// 403 `permission_denied`, 503.
    pub(crate) async fn topic(&self, app: &App, topic: &str) -> Result<&Caller> {
        if topic == bridge::REQUESTS {
            self.caller.require(bridge::DELEGATE)?;
        }
        if self.everywhere() || app.rights.may(&self.caller, P::NAME, topic).await? {
            Ok(&self.caller)
        } else {
            Err(self.denied())
        }
    }

    /// As `topic`, of what was looked up. Who may not do it everywhere is not told that it was not found.
    ///
    /// # Errors
    /// Also `missing`.
    pub(crate) async fn found(
        &self,
        app: &App,
        topic: Option<&str>,
        missing: impl FnOnce() -> Problem,
    ) -> Result<&Caller> {
        match topic {
            Some(topic) => self.topic(app, topic).await,
            None if self.everywhere() => Err(missing()),
            None => Err(self.denied()),
        }
    }

    /// The caller, if it holds the permission on all topics.
    ///
    /// # Errors
    /// 403 `permission_denied`.
    pub(crate) fn all(&self) -> Result<&Caller> {
        if self.everywhere() { Ok(&self.caller) } else { Err(self.denied()) }
    }

    /// The body. Without one that can be read, who may not do it everywhere may not do it.
    ///
    /// # Errors
    /// Those of [`Json`], 403 `permission_denied`.
    pub(crate) async fn body<T: DeserializeOwned + ToSchema + 'static>(&self, request: Request) -> Result<T> {
        match Json::<T>::from_request(request, &()).await {
            Ok(Json(body)) => Ok(body),
            Err(problem) if self.everywhere() => Err(problem),
            Err(_) => Err(self.denied()),
        }
    }

    fn everywhere(&self) -> bool {
        self.caller.may(P::NAME)
    }

    fn denied(&self) -> Problem {
        Problem::forbidden(format!("this needs the permission {}, everywhere or on the topic", P::NAME))
    }
}
