//! The token endpoint, as OAuth clients use it.

use axum::http::Method;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kronos_testkit::{TestRequest, TestResponse};
use serde_json::json;

use crate::harness::{ADMIN, ADMIN_SECRET, TestAuth, claims, tokens};

fn ask(auth: &TestAuth, form: &[(&str, &str)]) -> TestRequest {
    auth.client.request(Method::POST, "/oauth/token").form(form)
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

/// Both the members of RFC 6749 and those of a problem.
#[track_caller]
fn expect_error(answer: TestResponse, status: u16, error: &str) {
    let body = answer.json();
    assert_eq!((answer.status, body["error"].as_str()), (status, Some(error)), "{answer}");
    assert!(body["error_description"].is_string() && body["code"].is_string() && body["status"] == status, "{answer}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer}");
}

#[tokio::test]
async fn a_client_gets_a_token_by_header_or_by_form() {
    let auth = TestAuth::start().await;
    let form = [("grant_type", "client_credentials")];
    let by_header = ask(&auth, &form).header("authorization", basic(ADMIN, ADMIN_SECRET)).await.expect(200);
    let by_form = ask(&auth, &[form[0], ("client_id", ADMIN), ("client_secret", ADMIN_SECRET)]).await.expect(200);
    for answer in [by_header, by_form] {
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let body = answer.json();
        assert_eq!(
            (&body["token_type"], &body["expires_in"], &body["scope"]),
            (&json!("Bearer"), &json!(600), &json!("*:*"))
        );
        let claims = claims(body["access_token"].as_str().unwrap());
        assert_eq!((&claims["sub"], &claims["client_id"]), (&json!(ADMIN), &json!(ADMIN)));
        assert!(claims.get("sid").is_none() && claims.get("username").is_none());
    }
}

#[tokio::test]
async fn a_client_library_works_unchanged() {
    use oauth2::{AuthType, ClientId, ClientSecret, Scope, TokenResponse as _, TokenUrl, basic::BasicClient};
    let auth = TestAuth::start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let send = |request: oauth2::HttpRequest| {
        let http = http.clone();
        async move {
            let response = http.execute(request.try_into()?).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let mut answer = oauth2::http::Response::new(response.bytes().await?.to_vec());
            *answer.status_mut() = status;
            *answer.headers_mut() = headers;
            Ok::<_, reqwest::Error>(answer)
        }
    };
    for auth_type in [AuthType::BasicAuth, AuthType::RequestBody] {
        let client = BasicClient::new(ClientId::new(ADMIN.into()))
            .set_client_secret(ClientSecret::new(ADMIN_SECRET.into()))
            .set_auth_type(auth_type.clone())
            .set_token_uri(TokenUrl::new(format!("{}/oauth/token", auth.url())).unwrap());
        let token = client
            .exchange_client_credentials()
            .add_scope(Scope::new("logs:read".into()))
            .request_async(&send)
            .await
            .unwrap();
        assert!(auth.is_active(token.access_token().secret()).await);
        let wrong = client.set_client_secret(ClientSecret::new("wrong".into()));
        let refused = wrong.exchange_client_credentials().request_async(&send).await.unwrap_err();
        let oauth2::RequestTokenError::ServerResponse(refused) = refused else { panic!("{refused:?}") };
        assert_eq!(refused.error(), &oauth2::basic::BasicErrorResponseType::InvalidClient);
    }
}

#[tokio::test]
async fn an_unknown_client_and_a_wrong_secret_get_the_same_answer() {
    let auth = TestAuth::start().await;
    let mut answers = Vec::new();
    for (id, secret) in [("nobody", ADMIN_SECRET), (ADMIN, "wrong"), (ADMIN, "")] {
        let answer =
            ask(&auth, &[("grant_type", "client_credentials")]).header("authorization", basic(id, secret)).await;
        expect_error(answer.clone(), 401, "invalid_client");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Basic "));
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("traceId");
        answers.push(body);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn a_scope_narrows_and_never_widens() {
    let auth = TestAuth::start().await;
    let crm = |scope| {
        let secret = "ouranos-crm-secret-for-this-test";
        ask(
            &auth,
            &[
                ("grant_type", "client_credentials"),
                ("client_id", "ouranos-crm"),
                ("client_secret", secret),
                ("scope", scope),
            ],
        )
    };
    let body = crm("users:read access:check").await.expect(200).json();
    assert_eq!(body["scope"], "access:check users:read");
    assert_eq!(claims(body["access_token"].as_str().unwrap())["permissions"], json!(["access:check", "users:read"]));
    for scope in ["users:read logs:read", "*:*", "users:*"] {
        expect_error(crm(scope).await, 400, "invalid_scope");
    }
}

#[tokio::test]
async fn a_refresh_token_is_taken_here_too() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["logs:read"]).await;
    let (_, refresh) = auth.login(&user).await;
    let body = ask(&auth, &[("grant_type", "refresh_token"), ("refresh_token", &refresh)]).await.expect(200).json();
    assert_eq!(claims(body["access_token"].as_str().unwrap())["sub"], user.id.to_string());
    let next = body["refresh_token"].as_str().unwrap();
    let (_, _) = tokens(&auth.try_refresh(next).await.expect(200));
    expect_error(
        ask(&auth, &[("grant_type", "refresh_token"), ("refresh_token", "krt_x")]).await,
        400,
        "invalid_grant",
    );
    expect_error(ask(&auth, &[("grant_type", "refresh_token")]).await, 400, "invalid_request");
}

#[tokio::test]
async fn bad_requests_get_the_errors_of_the_standard() {
    let auth = TestAuth::start().await;
    let good = [("grant_type", "client_credentials"), ("client_id", ADMIN), ("client_secret", ADMIN_SECRET)];
    expect_error(ask(&auth, &[]).await, 400, "invalid_request");
    expect_error(ask(&auth, &[("grant_type", "password")]).await, 400, "unsupported_grant_type");
    expect_error(ask(&auth, &[good[0], good[0]]).await, 400, "invalid_request");
    expect_error(ask(&auth, &[good[0]]).await, 401, "invalid_client");
    expect_error(ask(&auth, &good).header("authorization", basic(ADMIN, ADMIN_SECRET)).await, 400, "invalid_request");
    for header in ["Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Bearer x"] {
        expect_error(ask(&auth, &[good[0]]).header("authorization", header).await, 401, "invalid_client");
    }
    expect_error(
        auth.client.post("/oauth/token", &json!({ "grant_type": "client_credentials" })).await,
        415,
        "invalid_request",
    );
    let large = "x".repeat(100_000);
    auth.client
        .request(Method::POST, "/oauth/token")
        .form(&[("grant_type", large.as_str())])
        .await
        .expect_problem(413, "body_too_large");
    ask(&auth, &[good[0], good[1], good[2], ("unknown", "ignored")]).await.expect(200);
}

#[tokio::test]
async fn an_error_is_json_for_who_asks_for_json_and_a_problem_for_the_others() {
    let auth = TestAuth::start().await;
    let answer = ask(&auth, &[]).header("accept", "application/json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(ask(&auth, &[]).await.header("content-type"), Some("application/problem+json"));
}
