//! `/Bulk` (RFC 7644 section 3.7): many operations in one request, each by itself. What refers to something that is still
//! to be made waits for it.

use std::collections::HashMap;

use axum::{
    extract::{FromRequestParts as _, State},
    http::{Request, StatusCode, header},
};
use kronos_common::{
    etag::IfMatch,
    extract::Json,
    identity::Allowed,
    problem::{Problem, Result},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::allowed::CanWriteUsers,
    resources::{alter, kind, make, put, remove},
    wire::{Scim, of_problem},
};
use crate::{
    App,
    changes::Actor,
    scim::{Fault, projection::Projection},
};

/// How many operations one request may have.
pub(super) const MOST_OPERATIONS: usize = 500;

const RESPONSE: &str = "urn:ietf:params:scim:api:messages:2.0:BulkResponse";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BulkRequest {
    /// After so many failures the rest is not tried.
    fail_on_errors: Option<usize>,
    #[serde(rename = "Operations", alias = "operations")]
    operations: Vec<Operation>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    method: String,
    path: String,
    bulk_id: Option<String>,
    version: Option<String>,
    #[serde(default)]
    data: Value,
}

/// Does many operations.
#[utoipa::path(
    post, path = "/scim/v2/Bulk", tag = "user-service", security(("bearer" = [])),
    request_body(content = Value, content_type = "application/scim+json"),
    responses(
        (status = 200, description = "A BulkResponse: what became of each", body = Value, content_type = "application/scim+json"),
        (status = 400, description = "`invalidSyntax`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:write`", body = Value, content_type = "application/scim+json"),
        (status = 413, description = "More than 500 operations, or more than 1 MiB", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn bulk(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Json(body): Json<Value>,
) -> Result<Scim<Value>> {
    let request: BulkRequest = serde_json::from_value(body)
        .map_err(|error| Fault::InvalidSyntax(format!("the body is a BulkRequest: {error}")))?;
    if request.operations.len() > MOST_OPERATIONS {
        let detail = format!("a request has at most {MOST_OPERATIONS} operations");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_operations", detail));
    }
    let most_failures = request.fail_on_errors.filter(|most| *most > 0).unwrap_or(usize::MAX);
    let mut made = HashMap::new();
    let mut answers = Vec::with_capacity(request.operations.len());
    let mut failures = 0;
    let mut waiting = request.operations;
    while !waiting.is_empty() && failures < most_failures {
        let before = waiting.len();
        let mut later = Vec::new();
        for operation in std::mem::take(&mut waiting) {
            if failures >= most_failures {
                break;
            }
            let Some(resolved) = resolve(&operation, &made) else {
                later.push(operation);
                continue;
            };
            let outcome = carry_out(&app, Actor(&allowed.caller), &resolved).await;
            failures += usize::from(outcome.is_err());
            answers.push(answer(&operation, outcome, &mut made));
        }
        if later.len() == before {
            // Nobody will ever make what these wait for.
            for operation in later.into_iter().take(most_failures - failures) {
                let detail = "a bulkId is of no operation that succeeds, or they wait for one another";
                let problem = Problem::conflict("bulk_id_unresolved", detail);
                answers.push(answer(&operation, Err(problem), &mut made));
            }
            break;
        }
        waiting = later;
    }
    Ok(Scim(json!({"schemas": [RESPONSE], "Operations": answers})))
}

/// What became of one operation.
struct Outcome {
    status: StatusCode,
    location: Option<String>,
    version: Option<Value>,
    id: Option<String>,
}

fn answer(operation: &Operation, outcome: Result<Outcome>, made: &mut HashMap<String, String>) -> Value {
    let mut answer = json!({"method": operation.method.to_ascii_uppercase()});
    if let Some(bulk_id) = &operation.bulk_id {
        answer["bulkId"] = json!(bulk_id);
    }
    match outcome {
        Ok(outcome) => {
            answer["status"] = outcome.status.as_str().into();
            if let Some(location) = outcome.location {
                answer["location"] = location.into();
            }
            if let Some(version) = outcome.version {
                answer["version"] = version;
            }
            if let (Some(bulk_id), Some(id)) = (&operation.bulk_id, outcome.id) {
                made.insert(bulk_id.clone(), id);
            }
        }
        Err(problem) => {
            let (status, error) = of_problem(&problem);
            answer["status"] = status.as_str().into();
            answer["response"] = error;
        }
    }
    answer
}

/// The operation with ids for every `bulkId:…`; `None` if one is not known yet.
fn resolve(operation: &Operation, made: &HashMap<String, String>) -> Option<Operation> {
    let mut resolved = operation.clone();
    let mut path = Vec::new();
    for segment in operation.path.split('/') {
        path.push(match segment.strip_prefix("bulkId:") {
            Some(bulk_id) => made.get(bulk_id)?.as_str(),
            None => segment,
        });
    }
    resolved.path = path.join("/");
    resolve_value(&mut resolved.data, made)?;
    Some(resolved)
}

/// The depth of a value is that of a JSON document that was read, which has an end.
fn resolve_value(value: &mut Value, made: &HashMap<String, String>) -> Option<()> {
    match value {
        Value::String(text) => {
            if let Some(bulk_id) = text.strip_prefix("bulkId:") {
                *text = made.get(bulk_id)?.clone();
            }
        }
        Value::Array(values) => values.iter_mut().try_for_each(|value| resolve_value(value, made))?,
        Value::Object(values) => values.values_mut().try_for_each(|value| resolve_value(value, made))?,
        _ => {}
    }
    Some(())
}

async fn carry_out(app: &App, actor: Actor<'_>, operation: &Operation) -> Result<Outcome> {
    let mut segments = operation.path.trim_matches('/').split('/');
    let resource = kind(segments.next().unwrap_or_default())?;
    let id = segments.next();
    let condition = condition(operation.version.as_deref()).await?;
    let data = operation.data.clone();
    // Only where it is and its version are told.
    let shown = Projection::parse(Some("meta"), None)?;
    let done = match (operation.method.to_ascii_uppercase().as_str(), id) {
        ("POST", None) => make(app, actor, resource, data, &shown).await?,
        ("PUT", Some(id)) => put(app, actor, (resource, id), &condition, data, &shown).await?,
        ("PATCH", Some(id)) => alter(app, actor, (resource, id), &condition, data, &shown).await?,
        ("DELETE", Some(id)) => {
            remove(app, actor, (resource, id), &condition).await?;
            let location = Some(format!("{}{}/{id}", app.scim_base, resource.endpoint));
            return Ok(Outcome { status: StatusCode::NO_CONTENT, location, version: None, id: None });
        }
        _ => {
            let detail = "an operation is POST on /Users or /Groups, or PUT, PATCH or DELETE on one of them";
            return Err(Fault::InvalidSyntax(detail.to_owned()).into());
        }
    };
    let meta = |name: &str| done.document.get("meta").map(|meta| meta[name].clone());
    Ok(Outcome {
        status: done.status,
        location: meta("location").and_then(|location| location.as_str().map(str::to_owned)),
        version: meta("version"),
        id: done.document.get("id").and_then(|id| id.as_str().map(str::to_owned)),
    })
}

/// An operation's version as the condition that it is in a request of its own.
async fn condition(version: Option<&str>) -> Result<IfMatch> {
    let mut request = Request::builder();
    if let Some(version) = version {
        request = request.header(header::IF_MATCH, version);
    }
    let invalid = |_| Problem::from(Fault::InvalidValue("version is no entity tag".to_owned()));
    let (mut parts, ()) = request.body(()).map_err(invalid)?.into_parts();
    IfMatch::from_request_parts(&mut parts, &()).await
}
