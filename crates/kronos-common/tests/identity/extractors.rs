//! What an unauthorised request gets.

use axum::{Router, extract::FromRef, routing::get};
use kronos_common::{
    identity::{Allowed, Caller, Permission, Revocations, Verifier},
    service::Context,
};
use kronos_testkit::{Issuer, TestClient, http};

struct CanReadLogs;

impl Permission for CanReadLogs {
    const NAME: &'static str = "logs:read";
}

#[derive(Clone)]
struct App {
    verifier: Verifier,
}

impl FromRef<App> for Verifier {
    fn from_ref(app: &App) -> Self {
        app.verifier.clone()
    }
}

async fn start(issuer: &Issuer) -> TestClient {
    let context = Context::detached("test");
    let verifier = Verifier::connect(&issuer.config(), Revocations::none(), &context).await.unwrap();
    let router = Router::new()
        .route("/logs", get(async |allowed: Allowed<CanReadLogs>| allowed.caller.subject().to_owned()))
        .route("/me", get(async |caller: Caller| format!("{} by {}", caller.subject(), caller.client_id())))
        .with_state(App { verifier });
    http(super::serve(router).await)
}

#[tokio::test]
async fn a_caller_with_the_permission_may_in() {
    let issuer = Issuer::start().await;
    let server = start(&issuer).await;
    for permission in ["logs:read", "logs:*", "*:*"] {
        let answer = server.get("/logs").bearer(issuer.token("ada", &["users:read", permission])).await.expect(200);
        assert_eq!(answer.text(), "ada");
    }
    let answer = server.get("/me").bearer(issuer.token("ada", &[])).await.expect(200);
    assert_eq!(answer.text(), "ada by test-client");
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let issuer = Issuer::start().await;
    let server = start(&issuer).await;
    for held in [&[][..], &["logs:write"], &["*:write"], &["logs"]] {
        let answer =
            server.get("/logs").bearer(issuer.token("ada", held)).await.expect_problem(403, "permission_denied");
        assert!(answer.text().contains("logs:read"), "{answer}");
    }
}

#[tokio::test]
async fn a_request_without_a_good_token_is_challenged() {
    let issuer = Issuer::start().await;
    let server = start(&issuer).await;
    let answer = server.get("/logs").await.expect_problem(401, "token_missing");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let bad = [
        (issuer.expired("ada", &["logs:read"]), "token_expired"),
        (issuer.forged("ada", &["logs:read"]), "token_invalid"),
        (issuer.build("ada").claim("aud", "other").sign(), "token_invalid"),
        ("nonsense".to_owned(), "token_malformed"),
    ];
    for (token, code) in bad {
        let answer = server.get("/logs").bearer(token).await.expect_problem(401, code);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    }
    server.get("/logs").header("authorization", "Basic YTpi").await.expect_problem(401, "token_malformed");
    let query = format!("/logs?access_token={}", issuer.token("ada", &["logs:read"]));
    server.get(&query).await.expect_problem(401, "token_missing");
}
