//! Plays user-service: grants and access of users that a test makes up, and every way of not answering.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kronos_common::problem::Problem;
use serde_json::{Value, json};
use uuid::Uuid;

/// How it behaves.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Answers,
    Fails,
    Hangs,
}

#[derive(Clone)]
pub(crate) struct FakeUsers {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<Known>>,
}

struct Known {
    mode: Mode,
    grants: HashMap<Uuid, Value>,
    bearer: Option<String>,
    made: HashMap<String, Value>,
}

impl FakeUsers {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let known = Known { mode: Mode::Answers, grants: HashMap::new(), bearer: None, made: HashMap::new() };
        let users = Self { address: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(known)) };
        let router = Router::new()
            .route("/users", post(make_user))
            .route("/users/{id}/grants", get(give_grants))
            .route("/users/{id}", get(give_user))
            .route("/users/{id}/access", get(give_access))
            .with_state(users.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        users
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
    }

    /// Says from now on that the user holds these permissions everywhere.
    pub(crate) fn grant(&self, user: Uuid, username: &str, permissions: &[&str], epoch: i64) {
        let grants = json!({
            "userId": user, "username": username, "disabled": false, "roles": ["technician"],
            "permissions": permissions, "scoped": [], "epoch": epoch,
        });
        self.state.lock().unwrap().grants.insert(user, grants);
    }

    pub(crate) fn change(&self, user: Uuid, member: &str, value: Value) {
        self.state.lock().unwrap().grants.get_mut(&user).unwrap()[member] = value;
    }

    pub(crate) fn forget(&self, user: Uuid) {
        self.state.lock().unwrap().grants.remove(&user);
    }

    /// Usernames of those who were made, in no order.
    pub(crate) fn made(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.made.values().map(|user| user["username"].as_str().unwrap().to_owned()).collect()
    }

    /// The token of the last request.
    pub(crate) fn last_bearer(&self) -> Option<String> {
        self.state.lock().unwrap().bearer.clone()
    }

    async fn find(&self, user: Uuid, headers: &HeaderMap) -> Result<Value, Response> {
        let mode = {
            let mut state = self.state.lock().unwrap();
            let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
            state.bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
            state.mode
        };
        match mode {
            Mode::Answers => {}
            Mode::Fails => return Err(StatusCode::SERVICE_UNAVAILABLE.into_response()),
            Mode::Hangs => tokio::time::sleep(Duration::from_secs(60)).await,
        }
        let found = self.state.lock().unwrap().grants.get(&user).cloned();
        found.ok_or_else(|| (StatusCode::NOT_FOUND, Json(json!({ "code": "not_found" }))).into_response())
    }
}

/// Once for each idempotency key; names and addresses are unique.
async fn make_user(State(users): State<FakeUsers>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let mut state = users.state.lock().unwrap();
    if state.mode != Mode::Answers {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    if let Some(user) = state.made.get(&key) {
        return (StatusCode::CREATED, Json(user.clone())).into_response();
    }
    for (member, code) in [("username", "username_taken"), ("email", "email_taken")] {
        if state.made.values().any(|user| user[member] == body[member]) {
            return Problem::conflict(code, "taken").into_response();
        }
    }
    let id = Uuid::now_v7();
    let mut user = body.clone();
    user["id"] = json!(id);
    state.made.insert(key, user.clone());
    let grants = json!({
        "userId": id, "username": body["username"], "disabled": false, "roles": [], "permissions": [], "scoped": [],
        "epoch": 1,
    });
    state.grants.insert(id, grants);
    (StatusCode::CREATED, Json(user)).into_response()
}

async fn give_grants(State(users): State<FakeUsers>, Path(user): Path<Uuid>, headers: HeaderMap) -> Response {
    match users.find(user, &headers).await {
        Ok(grants) => Json(grants).into_response(),
        Err(response) => response,
    }
}

async fn give_user(State(users): State<FakeUsers>, Path(user): Path<Uuid>, headers: HeaderMap) -> Response {
    match users.find(user, &headers).await {
        Ok(grants) => {
            let username = grants["username"].as_str().unwrap();
            let email = format!("{username}@kronos.test");
            let now = chrono::Utc::now();
            Json(json!({
                "id": user, "username": username, "email": email, "displayName": "Jane Doe", "disabled": false,
                "createdAt": now, "updatedAt": now,
            }))
            .into_response()
        }
        Err(response) => response,
    }
}

async fn give_access(
    State(users): State<FakeUsers>,
    Path(user): Path<Uuid>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let grants = match users.find(user, &headers).await {
        Ok(grants) => grants,
        Err(response) => return response,
    };
    if query.get("resource").is_some_and(|resource| resource.contains(' ')) {
        let problem = Problem::bad_request("invalid_query", "a resource such as robot:R-42");
        return problem.into_response();
    }
    if let Some(epoch) = query.get("minEpoch") {
        return Json(json!({ "allowed": true, "why": [format!("as of {epoch}")] })).into_response();
    }
    let wanted = query["permission"].clone();
    let holds = grants["permissions"].as_array().unwrap().iter().any(|held| held == wanted.as_str());
    let scoped = grants["scoped"].as_array().unwrap().iter().any(|grant| {
        grant["permission"] == wanted.as_str()
            && grant["resource"].as_str() == query.get("resource").map(String::as_str)
    });
    let why = if holds || scoped { "a role grants it" } else { "no role grants it" };
    Json(json!({ "allowed": holds || scoped, "why": [why] })).into_response()
}
