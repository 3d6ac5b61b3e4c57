//! Walks the merged OpenAPI document and attacks every operation with what the foundation promises to refuse: each time a
//! problem with the right status and a code, and nothing changed.

use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde_json::{Map, Value, json};

use kronos_e2e::api::{Answer, Api, read};

use crate::platform::Platform;

/// One operation of the document.
struct Operation {
    method: Method,
    /// With its parameters filled in.
    path: String,
    needs_token: bool,
    /// The schema of a JSON body, resolved one level, if it takes one.
    body: Option<Value>,
    /// It takes a form: OAuth's endpoints, and the pages that people see.
    form: bool,
}

/// Lists that must be the same before and after.
const STATE: [&str; 6] = ["/users", "/roles", "/topics", "/routes", "/upstreams", "/oauth/clients"];

/// The media type of SCIM's answers.
const SCIM: &str = "application/scim+json";

/// Over every service's body limit, but not the gateway's: the service itself refuses, while the body is still sent.
const LARGE: usize = 9 * 1024 * 1024;
/// Over the gateway's limit.
const TOO_LARGE: usize = 17 * 1024 * 1024;

#[tokio::test]
async fn every_operation_refuses_what_is_wrong_with_a_problem_and_changes_nothing() {
    let platform = Platform::start().await;
    let admin = Api::administrator(&platform.target).await.unwrap();
    let anonymous = Api::anonymous(&platform.target).unwrap();
    let powerless = powerless(&platform, &admin).await;
    let expired = anonymous.with_token(platform.expired_token(&admin).await);
    let forged = anonymous.with_token(forged_token(&platform).await);

    let document = admin.get("/openapi.json").await.unwrap().expect(200).unwrap();
    assert!(document.get("x-kronos-missing").is_none_or(|missing| missing == &json!([])), "{document}");
    let operations = operations(&document);
    assert!(operations.len() > 50, "only {} operations are described", operations.len());

    let before = state(&admin).await;
    let mut wrong = Vec::new();
    for operation in &operations {
        let call = format!("{} {}", operation.method, operation.path);
        let judge = |what: &str, answer: Answer, status: &[u16]| {
            let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            // OAuth's own endpoints answer with OAuth's own errors (RFC 6749 section 5.2), SCIM's with SCIM's (RFC 7644
            // section 3.12).
            let told = (kind == "application/problem+json" && answer.json["code"].is_string())
                || (operation.path.starts_with("/scim/") && kind == SCIM && answer.json["status"].is_string())
                || (operation.path.starts_with("/oauth/") && answer.json["error"].is_string());
            let right = status.contains(&answer.status.as_u16()) && told;
            (!right).then(|| format!("{call}: {what}: {} {kind} {}", answer.status, answer.json))
        };
        if operation.needs_token {
            for (what, api, status) in
                [("no token", &anonymous, 401), ("an expired token", &expired, 401), ("a forged token", &forged, 401)]
            {
                wrong.extend(judge(what, send(api, operation, Some(json!({}))).await, &[status]));
            }
            // What concerns the caller's own session everybody may.
            if !is_for_everybody(&operation.path) {
                let status = if has_a_token_of_its_own(&operation.path) { 401 } else { 403 };
                let answer = send(&powerless, operation, Some(json!({}))).await;
                wrong.extend(judge("a token without the permission", answer, &[status]));
            }
        }
        if has_a_token_of_its_own(&operation.path) {
            continue;
        }
        if operation.form && !operation.needs_token {
            for (what, kind, body, status) in bad_forms() {
                let request = anonymous.request(operation.method.clone(), &operation.path);
                match request.header(CONTENT_TYPE, kind).body(body).send().await {
                    // A page says it in words, a request by form may be led on to where it is looked at.
                    Ok(response)
                        if response.status().is_client_error() || status.contains(&response.status().as_u16()) => {}
                    Ok(response) => wrong.push(format!("{call}: {what}: {}", response.status())),
                    Err(error) => wrong.push(format!("{call}: {what}: {error}")),
                }
            }
        }
        let Some(schema) = &operation.body else { continue };
        for (what, kind, body, status) in bad_bodies(schema) {
            let request = admin.request(operation.method.clone(), &operation.path);
            let response = request.header(CONTENT_TYPE, kind).body(body).send().await;
            // AuthZEN's endpoints answer with AuthZEN's status (Authorization API 1.0 section 10.1.2), SCIM's with SCIM's.
            let own = ["/access/", "/scim/"].iter().any(|path| operation.path.starts_with(path));
            let status = if own && status == [422] { &[400] } else { status };
            match response {
                Ok(response) => wrong.extend(judge(what, read(call.clone(), response).await.unwrap(), status)),
                Err(error) => wrong.push(format!("{call}: {what}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(state(&admin).await, before, "something changed");
}

/// What can be wrong with a JSON body, whatever its schema.
fn bad_bodies(schema: &Value) -> Vec<(&'static str, &'static str, String, &'static [u16])> {
    let mut cases: Vec<(&'static str, &'static str, String, &'static [u16])> = vec![
        ("malformed JSON", "application/json", "{\"a\":".into(), &[400]),
        ("a wrong content type", "text/csv", "a,b".into(), &[415]),
        ("a wrong type", "application/json", "42".into(), &[422]),
        ("a large body", "application/json", format!("\"{}\"", "x".repeat(LARGE)), &[413, 422]),
        ("a body too large", "application/json", format!("\"{}\"", "x".repeat(TOO_LARGE)), &[413]),
    ];
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    if schema["additionalProperties"] == false {
        cases.push(("an unknown field", "application/json", json!({ "colour of the sky": 1 }).to_string(), &[422]));
    }
    if schema["required"].as_array().is_some_and(|required| !required.is_empty()) {
        cases.push(("missing fields", "application/json", "{}".into(), &[422]));
    }
    let wrong: Map<String, Value> =
        properties.iter().map(|(name, schema)| (name.clone(), wrong_value(schema))).collect();
    if wrong.values().any(|value| !value.is_null()) {
        cases.push(("fields of wrong types", "application/json", Value::Object(wrong).to_string(), &[422]));
    }
    let long: Map<String, Value> = properties
        .iter()
        .filter(|(_, schema)| schema["maxLength"].is_u64())
        .map(|(name, _)| (name.clone(), json!("x".repeat(200_000))))
        .collect();
    if !long.is_empty() {
        cases.push(("texts too long", "application/json", Value::Object(long).to_string(), &[413, 422]));
    }
    cases
}

/// What can be wrong with a form, and which answers beside a refusal are right.
fn bad_forms() -> Vec<(&'static str, &'static str, String, &'static [u16])> {
    let form = "application/x-www-form-urlencoded";
    vec![
        ("JSON for a form", "application/json", "{}".into(), &[]),
        ("an empty form", form, String::new(), &[200, 303]),
        (
            "odd characters",
            form,
            "client_id=%00&state=%0d%0aSet-Cookie:x&request_uri=%ff&next=%00&csrf=%00".into(),
            &[200, 303],
        ),
        ("every field twice", form, "client_id=a&client_id=b&token=a&token=b".into(), &[200, 303]),
        ("a large form", form, format!("client_id={}", "x".repeat(LARGE)), &[]),
    ]
}

/// A value of a type that the schema does not have; null where every type may stand.
fn wrong_value(schema: &Value) -> Value {
    let types = match &schema["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => {
            return if schema.get("$ref").is_some() { json!([[7]]) } else { Value::Null };
        }
    };
    if types.contains(&"boolean") { json!("yes") } else { json!(true) }
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else {
                continue;
            };
            if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method.as_str()) {
                continue;
            }
            operations.push(Operation {
                method,
                path: fill(template),
                needs_token: operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty()),
                body: operation
                    .pointer("/requestBody/content/application~1json/schema")
                    .or_else(|| operation.pointer("/requestBody/content/application~1scim+json/schema"))
                    .map(|schema| resolve(document, schema)),
                form: operation.pointer("/requestBody/content/application~1x-www-form-urlencoded").is_some(),
            });
        }
    }
    operations
}

/// Path parameters become ids that name nothing; kinds of resources become one of them.
fn fill(template: &str) -> String {
    let filled = template.split('/').map(|segment| match segment {
        "{resources}" => "Users".to_owned(),
        parameter if parameter.starts_with('{') => uuid::Uuid::now_v7().to_string(),
        segment => segment.to_owned(),
    });
    filled.collect::<Vec<_>>().join("/")
}

fn resolve(document: &Value, schema: &Value) -> Value {
    match schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).cloned().unwrap_or_default(),
        None => schema.clone(),
    }
}

/// Paths that any valid token opens, because they concern the caller itself.
fn is_for_everybody(path: &str) -> bool {
    [
        "/auth/logout",
        "/auth/sessions",
        "/auth/password",
        "/auth/factors",
        "/auth/passkeys",
        "/auth/api-keys",
        "/auth/links",
        "/scim/v2/Me",
    ]
    .iter()
    .any(|own| path.starts_with(own))
}

/// Paths that no token opens but the one that was given with the registration (RFC 7592).
fn has_a_token_of_its_own(path: &str) -> bool {
    path.starts_with("/oauth/register/")
}

async fn send(api: &Api, operation: &Operation, body: Option<Value>) -> Answer {
    let mut request = api.request(operation.method.clone(), &operation.path);
    if let (Some(body), true) = (body, operation.body.is_some()) {
        request = request.json(&body);
    }
    read(format!("{} {}", operation.method, operation.path), request.send().await.unwrap()).await.unwrap()
}

/// A user who may nothing.
async fn powerless(platform: &Platform, admin: &Api) -> Api {
    let name = kronos_testkit::unique("powerless");
    let password = "a long enough password 7";
    let user =
        json!({ "username": name, "email": format!("{name}@example.com"), "displayName": "P", "password": password });
    admin.post("/users", &user).await.unwrap().expect(201).unwrap();
    Api::login(&platform.target, &name, password).await.unwrap()
}

/// The administrator's own token with a changed signature.
async fn forged_token(platform: &Platform) -> String {
    let login = json!({ "username": platform.target.admin.username, "password": platform.target.admin.password });
    let answer = Api::anonymous(&platform.target).unwrap().post("/auth/login", &login).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let token = answer.text("accessToken").unwrap();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = signature.as_bytes().to_vec();
    bytes[10] = if bytes[10] == b'A' { b'B' } else { b'A' };
    format!("{head}.{}", String::from_utf8(bytes).unwrap())
}

async fn state(admin: &Api) -> Vec<Value> {
    let mut lists = Vec::new();
    for path in STATE {
        let mut list = admin.get(&format!("{path}?limit=200")).await.unwrap().expect(200).unwrap();
        for item in list["items"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            // How an upstream's instances are doing, which every request changes.
            item.remove("state");
        }
        lists.push(list);
    }
    lists
}
