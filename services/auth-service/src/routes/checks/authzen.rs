//! The Authorization API 1.0 of OpenID AuthZEN: the same questions in the words of a standard. A permission is the action's name
//! if that has a colon, else `resource type:action`; the resource is `type:id`, and `*` as its id means: everywhere.

use axum::{
    extract::{FromRequest, Request, State},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use kronos_common::{
    extract,
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    CheckRequest, Name, PermissionName,
    batch::{MOST, decide_all, named},
    decide,
};
use crate::{
    App,
    decision::{Decision, GrantPath, Missing},
    routes::permissions::CanCheckAccess,
};

/// A caller's name for its request; it comes back (section 10.1.3).
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A subject or a resource (sections 5.1 and 5.2). Unknown members are ignored, as the standard has it.
#[derive(Clone, Deserialize, ToSchema)]
#[schema(as = AuthzenEntity)]
pub(in crate::routes) struct Entity {
    /// Of a subject: `user`, `client` or `node`.
    #[serde(rename = "type")]
    #[schema(example = "user")]
    kind: String,
    id: String,
    #[serde(default)]
    #[expect(dead_code, reason = "part of the standard; no rule of ours depends on it")]
    properties: Option<Map<String, Value>>,
}

#[derive(Clone, Deserialize, ToSchema)]
#[schema(as = AuthzenAction)]
pub(in crate::routes) struct Action {
    #[schema(example = "robots:use")]
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "part of the standard; no rule of ours depends on it")]
    properties: Option<Map<String, Value>>,
}

#[derive(Deserialize, ToSchema)]
pub(in crate::routes) struct EvaluationRequest {
    subject: Entity,
    action: Action,
    resource: Entity,
    #[expect(dead_code, reason = "part of the standard; no rule of ours depends on it")]
    context: Option<Map<String, Value>>,
}

/// What is not said in an evaluation is taken from the request.
#[derive(Deserialize, ToSchema)]
pub(in crate::routes) struct EvaluationsRequest {
    subject: Option<Entity>,
    action: Option<Action>,
    resource: Option<Entity>,
    #[expect(dead_code, reason = "part of the standard; no rule of ours depends on it")]
    context: Option<Map<String, Value>>,
    #[serde(default)]
    #[schema(max_items = 100)]
    evaluations: Vec<Evaluation>,
    #[serde(default)]
    options: Options,
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = AuthzenEvaluationItem)]
pub(in crate::routes) struct Evaluation {
    subject: Option<Entity>,
    action: Option<Action>,
    resource: Option<Entity>,
    #[expect(dead_code, reason = "part of the standard; no rule of ours depends on it")]
    context: Option<Map<String, Value>>,
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = AuthzenOptions)]
pub(in crate::routes) struct Options {
    #[serde(default)]
    evaluations_semantic: Semantic,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AuthzenSemantic)]
pub(in crate::routes) enum Semantic {
    #[default]
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct EvaluationAnswer {
    decision: bool,
    context: AnswerContext,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuthzenAnswerContext)]
struct AnswerContext {
    /// Sentences for a person, in the order of the argument.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    why: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<GrantPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Missing>,
    /// Why an evaluation among others could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<EvaluationError>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuthzenError)]
struct EvaluationError {
    status: u16,
    message: String,
}

#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct EvaluationsAnswer {
    /// In the order of the questions; up to the deciding one, if the semantic says so.
    evaluations: Vec<EvaluationAnswer>,
}

/// Where the decision point is (section 9).
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct AuthzenConfiguration {
    policy_decision_point: String,
    access_evaluation_endpoint: String,
    access_evaluations_endpoint: String,
}

impl From<Decision> for EvaluationAnswer {
    fn from(decision: Decision) -> Self {
        let Decision { allowed, why, grant, missing } = decision;
        Self { decision: allowed, context: AnswerContext { why, grant, missing, error: None } }
    }
}

/// A JSON body; what is wrong with its members is a 400 here (section 10.1.2).
pub(in crate::routes) struct Body<T>(T);

impl<T: DeserializeOwned + ToSchema + 'static> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        extract::Json::from_request(request, app).await.map(|extract::Json(value)| Self(value)).map_err(as_bad_request)
    }
}

fn as_bad_request(problem: Problem) -> Problem {
    if problem.status() == StatusCode::UNPROCESSABLE_ENTITY {
        let detail = problem.errors().iter().map(|error| format!("{}: {}", error.pointer, error.detail));
        Problem::bad_request("invalid_request", detail.collect::<Vec<_>>().join("; "))
    } else {
        problem
    }
}

/// Says whether a subject may do an action on a resource (AuthZEN 1.0 section 6).
#[utoipa::path(
    post, path = "/access/v1/evaluation", tag = "auth-service", security(("bearer" = [])),
    request_body = EvaluationRequest,
    responses(
        (status = 200, description = "The decision, with the reasons in its context", body = EvaluationAnswer),
        (status = 400, description = "`invalid_request`, `malformed_json`", body = ProblemBody),
        (status = 401, description = "No good token of the caller's own", body = ProblemBody),
        (status = 403, description = "Needs `access:check`", body = ProblemBody),
    )
)]
pub(in crate::routes) async fn evaluate(
    State(app): State<App>,
    _: Allowed<CanCheckAccess>,
    headers: HeaderMap,
    Body(body): Body<EvaluationRequest>,
) -> Result<Response> {
    Ok(echo(&headers, EvaluationAnswer::from(one(&app, &body.subject, &body.action, &body.resource).await?)))
}

/// Says it of up to 100 at once (AuthZEN 1.0 section 7).
///
/// Without `evaluations` it is one evaluation. `options.evaluations_semantic`: `execute_all`, `deny_on_first_deny`,
/// `permit_on_first_permit`.
#[utoipa::path(
    post, path = "/access/v1/evaluations", tag = "auth-service", security(("bearer" = [])),
    request_body = EvaluationsRequest,
    responses(
        (status = 200, description = "The decisions, in order", body = EvaluationsAnswer),
        (status = 400, description = "`invalid_request`, `malformed_json`", body = ProblemBody),
        (status = 401, description = "No good token of the caller's own", body = ProblemBody),
        (status = 403, description = "Needs `access:check`", body = ProblemBody),
    )
)]
pub(in crate::routes) async fn evaluate_many(
    State(app): State<App>,
    _: Allowed<CanCheckAccess>,
    headers: HeaderMap,
    Body(body): Body<EvaluationsRequest>,
) -> Result<Response> {
    if body.evaluations.is_empty() {
        let (subject, action, resource) = complete(&body, &Evaluation::default())?;
        return Ok(echo(&headers, EvaluationAnswer::from(one(&app, &subject, &action, &resource).await?)));
    }
    if body.evaluations.len() > MOST {
        return Err(Problem::bad_request("invalid_request", format!("at most {MOST} evaluations")));
    }
    let questions = body.evaluations.iter().map(|evaluation| {
        let (subject, action, resource) = complete(&body, evaluation)?;
        question(&subject, &action, &resource)
    });
    let questions: Vec<Result<CheckRequest>> = questions.collect();
    let evaluations = match body.options.evaluations_semantic {
        Semantic::ExecuteAll => execute_all(&app, questions).await?,
        semantic => {
            let stop = semantic == Semantic::PermitOnFirstPermit;
            let mut answers = Vec::new();
            for question in questions {
                let answer = match question {
                    Ok(question) => answer(decide(&app, &question).await)?,
                    Err(problem) => answer(Err(problem))?,
                };
                let last = answer.decision == stop;
                answers.push(answer);
                if last {
                    break;
                }
            }
            answers
        }
    };
    Ok(echo(&headers, EvaluationsAnswer { evaluations }))
}

/// Where a client of AuthZEN finds the endpoints.
#[utoipa::path(
    get, path = "/.well-known/authzen-configuration", tag = "auth-service",
    responses((status = 200, description = "Metadata (AuthZEN 1.0 section 9)", body = AuthzenConfiguration))
)]
pub(in crate::routes) async fn get_authzen_configuration(
    State(app): State<App>,
) -> extract::Json<AuthzenConfiguration> {
    let base = &app.issuer_url;
    extract::Json(AuthzenConfiguration {
        policy_decision_point: base.clone(),
        access_evaluation_endpoint: format!("{base}/access/v1/evaluation"),
        access_evaluations_endpoint: format!("{base}/access/v1/evaluations"),
    })
}

async fn execute_all(app: &App, questions: Vec<Result<CheckRequest>>) -> Result<Vec<EvaluationAnswer>> {
    let mut refused = Vec::new();
    let mut asked = Vec::new();
    for question in questions {
        refused.push(question.map(|question| asked.push(question)).err());
    }
    let mut decided = decide_all(app, asked).await.into_iter();
    let answers = refused.into_iter().map(|refused| match refused {
        Some(problem) => answer(Err(problem)),
        None => answer(decided.next().unwrap_or_else(|| Ok(Decision::deny("not decided")))),
    });
    answers.collect()
}

/// A question that cannot be asked is a no that says so, in its place; what fails here is an error of the whole.
fn answer(outcome: Result<Decision>) -> Result<EvaluationAnswer> {
    match outcome {
        Ok(decision) => Ok(decision.into()),
        Err(problem) if problem.status().is_client_error() => {
            let error = Some(EvaluationError { status: 400, message: named(&problem) });
            let context = AnswerContext { why: Vec::new(), grant: None, missing: None, error };
            Ok(EvaluationAnswer { decision: false, context })
        }
        Err(problem) => Err(problem),
    }
}

async fn one(app: &App, subject: &Entity, action: &Action, resource: &Entity) -> Result<Decision> {
    decide(app, &question(subject, action, resource)?).await.map_err(as_bad_request)
}

fn complete(body: &EvaluationsRequest, evaluation: &Evaluation) -> Result<(Entity, Action, Entity)> {
    let missing = |name: &str| Problem::bad_request("invalid_request", format!("{name} is missing"));
    Ok((
        evaluation.subject.as_ref().or(body.subject.as_ref()).cloned().ok_or_else(|| missing("subject"))?,
        evaluation.action.as_ref().or(body.action.as_ref()).cloned().ok_or_else(|| missing("action"))?,
        evaluation.resource.as_ref().or(body.resource.as_ref()).cloned().ok_or_else(|| missing("resource"))?,
    ))
}

/// The question in our words.
fn question(subject: &Entity, action: &Action, resource: &Entity) -> Result<CheckRequest> {
    let bad = |member: &str, why: &str| Problem::bad_request("invalid_request", format!("{member}: {why}"));
    if !["user", "client", "node"].contains(&subject.kind.as_str()) {
        return Err(bad("subject.type", "user, client or node"));
    }
    let permission =
        if action.name.contains(':') { action.name.clone() } else { format!("{}:{}", resource.kind, action.name) };
    let place = match resource.id.as_str() {
        "*" => None,
        id => Some(Name::try_from(format!("{}:{id}", resource.kind)).map_err(|why| bad("resource", why))?),
    };
    Ok(CheckRequest {
        subject: Name::try_from(subject.id.clone()).map_err(|why| bad("subject.id", why))?,
        permission: PermissionName::try_from(permission).map_err(|why| bad("action.name", why))?,
        resource: place,
        min_epoch: None,
    })
}

fn echo(headers: &HeaderMap, answer: impl Serialize) -> Response {
    let mut response = extract::Json(answer).into_response();
    if let Some(id) = headers.get(REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response
}
