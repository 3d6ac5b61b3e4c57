//! Idempotency keys: carried out once, answered alike, each caller's its own, nothing secret or passing kept.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::post,
};
use kronos_common::{
    idempotency,
    identity::{Revocations, Verifier},
};
use kronos_testkit::{Issuer, TestClient, TestDatabase, TestRequest, http, wait_until};
use sqlx::PgPool;
use tokio::sync::Semaphore;

#[derive(Clone)]
struct App {
    calls: Arc<AtomicUsize>,
    /// A request to `/slow` needs one of these to end.
    gate: Arc<Semaphore>,
}

struct Fixture {
    _database: TestDatabase,
    pool: PgPool,
    issuer: Issuer,
    app: App,
    client: TestClient,
    address: SocketAddr,
}

impl Fixture {
    async fn new() -> Self {
        let (database, issuer) = (TestDatabase::create().await, Issuer::start().await);
        let pool = database.pool("kronos_users").await;
        let verifier = Verifier::with_keys(&issuer.config(), &issuer.key_set(), Revocations::none());
        let app = App { calls: Arc::default(), gate: Arc::new(Semaphore::new(0)) };
        let router = Router::new()
            .route("/robots", post(create_robot))
            .route("/slow", post(slow))
            .route("/broken", post(async |State(app): State<App>| app.count(StatusCode::BAD_GATEWAY)))
            .route("/secret", post(secret))
            .with_state(app.clone())
            .layer(idempotency::layer(pool.clone(), verifier));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = http(address).bearer(issuer.token("u1", &[]));
        Self { _database: database, pool, issuer, app, client, address }
    }

    fn post(&self, path: &str, body: &str) -> TestRequest {
        self.client.request(axum::http::Method::POST, path).header("idempotency-key", "k1").body(body.to_owned())
    }

    fn calls(&self) -> usize {
        self.app.calls.load(Ordering::SeqCst)
    }
}

impl App {
    fn count<T>(&self, answer: T) -> T {
        self.calls.fetch_add(1, Ordering::SeqCst);
        answer
    }
}

async fn create_robot(State(app): State<App>, body: Bytes) -> impl IntoResponse {
    app.count(());
    let headers = [(header::LOCATION, "/robots/1"), (header::CONTENT_TYPE, "text/robot")];
    (StatusCode::CREATED, headers, format!("call {} with {} bytes", app.calls.load(Ordering::SeqCst), body.len()))
}

async fn slow(State(app): State<App>) -> &'static str {
    app.count(());
    app.gate.acquire().await.unwrap().forget();
    "done"
}

async fn secret(State(app): State<App>, _: HeaderMap) -> impl IntoResponse {
    app.count(([(header::CACHE_CONTROL, "no-store")], "client secret"))
}

#[tokio::test]
async fn a_repeated_request_is_carried_out_once_and_answered_alike() {
    let fixture = Fixture::new().await;
    let first = fixture.post("/robots", "R-42").await.expect(201);
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = fixture.post("/robots", "R-42").await.expect(201);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.body, first.body);
    for name in ["content-type", "location"] {
        assert_eq!(again.header(name), first.header(name));
    }
    // A refreshed token is the same caller.
    fixture.post("/robots", "R-42").bearer(fixture.issuer.token("u1", &["robots:write"])).await.expect(201);
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let fixture = Fixture::new().await;
    fixture.post("/robots", "R-42").await.expect(201);
    fixture.post("/robots", "R-43").await.expect_problem(422, "idempotency_key_reused");
    fixture.post("/robots?dry=1", "R-42").await.expect_problem(422, "idempotency_key_reused");
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test]
async fn a_key_belongs_to_its_caller() {
    let fixture = Fixture::new().await;
    let first = fixture.post("/robots", "R-42").await.expect(201);
    let other = fixture.post("/robots", "R-42").bearer(fixture.issuer.token("u2", &[])).await.expect(201);
    assert_ne!(other.body, first.body);
    for stranger in [fixture.issuer.forged("u1", &[]), fixture.issuer.expired("u1", &[])] {
        let answer = fixture.post("/robots", "R-42").bearer(stranger).await;
        assert_eq!(answer.header("idempotent-replayed"), None, "a bad token is shown nothing of another's");
    }
    assert_eq!(fixture.calls(), 4);
}

#[tokio::test]
async fn a_request_under_way_is_not_started_again_and_its_answer_waits_for_a_caller_who_hung_up() {
    let fixture = Fixture::new().await;
    let request = fixture.post("/slow", "").into_future();
    let waiting = tokio::spawn(request);
    wait_until("the request is under way", async || fixture.calls() == 1).await;
    let refused = fixture.post("/slow", "").await.expect_problem(409, "idempotency_in_progress");
    assert_eq!(refused.header("retry-after"), Some("1"));
    waiting.abort();
    let _ = waiting.await;
    fixture.app.gate.add_permits(1);
    wait_until("the answer is kept", async || fixture.post("/slow", "").await.status == 200).await;
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test]
async fn many_at_once_are_carried_out_once() {
    let fixture = Fixture::new().await;
    let requests: Vec<_> = (0..20).map(|_| tokio::spawn(fixture.post("/robots", "R-42").into_future())).collect();
    let mut created = 0;
    for request in requests {
        match request.await.unwrap() {
            answer if answer.status == 201 => created += 1,
            answer => drop(answer.expect_problem(409, "idempotency_in_progress")),
        }
    }
    assert!(created >= 1);
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test]
async fn failures_of_ours_and_secrets_are_not_kept() {
    let fixture = Fixture::new().await;
    for (path, status) in [("/broken", 502), ("/secret", 200)] {
        fixture.post(path, "").await.expect(status);
        let again = fixture.post(path, "").await.expect(status);
        assert_eq!(again.header("idempotent-replayed"), None);
    }
    assert_eq!(fixture.calls(), 4);
    let kept: i64 = sqlx::query_scalar("select count(*) from idempotency_keys").fetch_one(&fixture.pool).await.unwrap();
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn what_a_dead_instance_had_begun_can_be_begun_again() {
    let fixture = Fixture::new().await;
    let first = tokio::spawn(fixture.post("/slow", "").into_future());
    wait_until("the request is under way", async || fixture.calls() == 1).await;
    sqlx::query("update idempotency_keys set claimed_until = now() - interval '1 s'")
        .execute(&fixture.pool)
        .await
        .unwrap();
    let second = tokio::spawn(fixture.post("/slow", "").into_future());
    wait_until("it is begun again", async || fixture.calls() == 2).await;
    fixture.app.gate.add_permits(2);
    first.await.unwrap().expect(200);
    second.await.unwrap().expect(200);
}

#[tokio::test]
async fn an_answer_is_forgotten_when_its_time_is_over() {
    let fixture = Fixture::new().await;
    fixture.post("/robots", "R-42").await.expect(201);
    sqlx::query("update idempotency_keys set expires_at = now() - interval '1 s'")
        .execute(&fixture.pool)
        .await
        .unwrap();
    let again = fixture.post("/robots", "R-43").await.expect(201);
    assert_eq!(again.header("idempotent-replayed"), None);
}

#[tokio::test]
async fn requests_without_a_key_or_a_token_pass_untouched() {
    let fixture = Fixture::new().await;
    for _ in 0..2 {
        fixture.post("/robots", "R-42").anonymous().await.expect(201);
        fixture.client.request(axum::http::Method::POST, "/robots").await.expect(201);
    }
    assert_eq!(fixture.calls(), 4);
    let long = http(fixture.address).bearer(fixture.issuer.token("u1", &[]));
    let long = long.request(axum::http::Method::POST, "/robots").header("idempotency-key", "k".repeat(256));
    long.await.expect_problem(400, "invalid_idempotency_key");
}
