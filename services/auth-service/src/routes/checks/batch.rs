//! Many questions at once.

use axum::extract::State;
use futures::{StreamExt as _, stream};
use kronos_common::{
    extract::Json,
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CheckRequest, decide};
use crate::{App, decision::Decision, routes::permissions::CanCheckAccess};

/// Questions in one request.
pub(super) const MOST: usize = 100;
/// How many of them are under way at once.
const AT_ONCE: usize = 8;

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::routes) struct BatchRequest {
    #[schema(min_items = 1, max_items = 100)]
    checks: Vec<CheckRequest>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::routes) struct BatchAnswer {
    /// One for each question, in their order.
    results: Vec<Decision>,
}

/// Answers up to 100 questions, each as `/auth/check` does, in their order.
#[utoipa::path(
    post, path = "/auth/check/batch", tag = "auth-service", security(("bearer" = [])), request_body = BatchRequest,
    responses(
        (status = 200, description = "One answer for each", body = BatchAnswer),
        (status = 401, description = "No good token of the caller's own", body = ProblemBody),
        (status = 403, description = "Needs `access:check`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(in crate::routes) async fn check_batch(
    State(app): State<App>,
    _: Allowed<CanCheckAccess>,
    Json(body): Json<BatchRequest>,
) -> Result<Json<BatchAnswer>> {
    if !(1..=MOST).contains(&body.checks.len()) {
        return Err(Problem::field("/checks", "wrong_length", format!("1 to {MOST} questions")));
    }
    let answers = decide_all(&app, body.checks).await;
    let results = answers
        .into_iter()
        .enumerate()
        .map(|(index, answer)| match answer {
            // Only user-service knows what a resource can be named.
            Err(problem) if problem.status().as_u16() == 422 => {
                Err(Problem::field(format!("/checks/{index}/resource"), "invalid", named(&problem)))
            }
            answer => answer,
        })
        .collect::<Result<_>>()?;
    Ok(Json(BatchAnswer { results }))
}

/// What is wrong with a question, in words.
pub(super) fn named(problem: &Problem) -> String {
    problem.errors().first().map_or_else(|| problem.detail().to_owned(), |error| error.detail.clone())
}

/// The answers, in the order of the questions.
pub(super) async fn decide_all(app: &App, questions: Vec<CheckRequest>) -> Vec<Result<Decision>> {
    let answers = questions.into_iter().map(|question| async move { decide(app, &question).await });
    stream::iter(answers).buffered(AT_ONCE).collect().await
}
