//! The client between services against a server that misbehaves on purpose.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures::FutureExt as _;
use kronos_common::{
    identity::{Client, ClientError, ServiceToken},
    problem::Problem,
    service::Context,
    trace::{self, TraceContext},
};
use serde_json::{Value, json};

type Answer = dyn Fn(usize) -> Response + Send + Sync;

/// Answers the n-th request as the test says, and remembers the headers.
#[derive(Clone)]
struct Server {
    answer: Arc<Answer>,
    count: Arc<AtomicUsize>,
    headers: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Server {
    async fn start(answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> (Self, Client) {
        let server = Self { answer: Arc::new(answer), count: Arc::default(), headers: Arc::default() };
        let handler = async |State(server): State<Server>, headers: HeaderMap| {
            server.headers.lock().unwrap().push(headers);
            (server.answer)(server.count.fetch_add(1, Ordering::SeqCst))
        };
        let address = super::serve(Router::new().fallback(handler).with_state(server.clone())).await;
        let client = Client::new(&format!("http://{address}"), token(), &Context::detached("test")).unwrap();
        (server, client)
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn header(&self, request: usize, name: &str) -> String {
        let headers = self.headers.lock().unwrap();
        headers[request].get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }
}

/// Tokens `own-0`, `own-1`, …
fn token() -> ServiceToken {
    let count = Arc::new(AtomicUsize::new(0));
    ServiceToken::own(move || {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move { Ok((format!("own-{number}"), Duration::from_secs(600))) }.boxed()
    })
}

fn good() -> Response {
    Json(json!({"good": true})).into_response()
}

#[tokio::test]
async fn a_call_carries_the_own_token_and_the_trace() {
    let (server, client) = Server::start(|_| good()).await;
    let context = TraceContext::random(true);
    let answer: Value = trace::scope(context, client.get("/x")).await.unwrap();
    assert_eq!(answer, json!({"good": true}));
    assert_eq!(server.header(0, "authorization"), "Bearer own-0");
    let sent = TraceContext::parse(&server.header(0, "traceparent")).unwrap();
    assert_eq!(sent.trace_id, context.trace_id);
    assert_ne!(sent.span_id, context.span_id);
}

#[tokio::test]
async fn an_idempotent_call_is_tried_again() {
    let (server, client) =
        Server::start(|n| if n < 2 { StatusCode::SERVICE_UNAVAILABLE.into_response() } else { good() }).await;
    client.get::<Value>("/x").await.unwrap();
    assert_eq!(server.count(), 3);
}

#[tokio::test]
async fn a_call_that_may_have_happened_is_not_repeated() {
    let (server, client) = Server::start(|_| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let error = client.post::<_, Value>("/x", &json!({})).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert!(error.is_away());
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let (server, client) = Server::start(|_| StatusCode::BAD_GATEWAY.into_response()).await;
    for _ in 0..50 {
        client.get::<Value>("/x").await.unwrap_err();
    }
    assert!((53..=60).contains(&server.count()), "{} requests", server.count());
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let (server, client) =
        Server::start(|n| if n == 0 { StatusCode::UNAUTHORIZED.into_response() } else { good() }).await;
    client.post::<_, Value>("/x", &json!({})).await.unwrap();
    assert_eq!(server.header(0, "authorization"), "Bearer own-0");
    assert_eq!(server.header(1, "authorization"), "Bearer own-1");
    let (server, client) = Server::start(|_| StatusCode::UNAUTHORIZED.into_response()).await;
    assert_eq!(client.get::<Value>("/x").await.unwrap_err().status(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_problem_comes_back_with_its_code() {
    let (_, client) = Server::start(|_| Problem::conflict("name_taken", "another one").into_response()).await;
    let error = client.put::<_, ()>("/x", &json!({})).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(StatusCode::CONFLICT), Some("name_taken")));
    assert!(!error.is_away());
}

#[tokio::test]
async fn an_empty_answer_is_a_unit() {
    let (_, client) = Server::start(|_| StatusCode::NO_CONTENT.into_response()).await;
    client.put::<_, ()>("/x", &json!({})).await.unwrap();
    client.delete("/x").await.unwrap();
    let (_, client) = Server::start(|_| "no JSON".into_response()).await;
    assert!(matches!(client.get::<Value>("/x").await, Err(ClientError::Unreadable { .. })));
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    // Accepts and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = Client::new(&url, token(), &Context::detached("test")).unwrap();
    let began = Instant::now();
    let error = client.with_deadline(Duration::from_millis(200)).get::<Value>("/x").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_service_that_is_away_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(&url, token(), &Context::detached("test")).unwrap();
    let error = client.post::<_, Value>("/x", &json!({})).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }) && error.is_away());
    assert_eq!(Problem::from(error).status(), StatusCode::SERVICE_UNAVAILABLE);
    let headers = HeaderMap::new();
    assert!(client.send(Method::GET, "/x", None, &headers).await.is_err());
}
