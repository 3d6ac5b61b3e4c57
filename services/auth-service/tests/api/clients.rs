//! OAuth clients and their secrets.

use auth_service::{
    bootstrap::Bootstrap,
    catalogue::KNOWN_CLIENTS,
    clients::{is_permission, next_epoch},
};
use kronos_common::identity::permission_matches;
use kronos_testkit::wait_until;
use serde_json::{Value, json};

use crate::harness::TestAuth;

fn body(permissions: &[&str]) -> Value {
    json!({ "name": "A robot's client", "grantTypes": ["client_credentials"], "permissions": permissions })
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_is_made_used_shown_and_removed() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let answer = admin.post("/oauth/clients", &body(&["logs:write", "logs:write"])).await.expect(201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let (id, secret) = (text(&answer.json(), "clientId"), text(&answer.json(), "clientSecret"));
    assert_eq!(answer.header("location"), Some(format!("/oauth/clients/{id}").as_str()));
    let token = auth.client_token(&id, &secret).await;
    let shown = admin.get(&format!("/oauth/clients/{id}")).await.expect(200);
    assert_eq!(shown.json()["permissions"], json!(["logs:write"]));
    assert!(!shown.text().contains(&secret));
    let stored: Vec<u8> = sqlx::query_scalar("select secret_hash from clients where client_id = $1")
        .bind(&id)
        .fetch_one(&auth.pool)
        .await
        .unwrap();
    assert_eq!(stored.len(), 32);
    admin.delete(&format!("/oauth/clients/{id}")).await.expect(204);
    assert!(!auth.is_active(&token).await, "its token ends with it");
    admin.get(&format!("/oauth/clients/{id}")).await.expect_problem(404, "not_found");
    admin.delete(&format!("/oauth/clients/{id}")).await.expect_problem(404, "not_found");
    let form = [("grant_type", "client_credentials"), ("client_id", id.as_str()), ("client_secret", secret.as_str())];
    auth.client.request(axum::http::Method::POST, "/oauth/token").form(&form).await.expect(401);
}

#[tokio::test]
async fn a_removed_clients_name_can_be_given_again_and_old_tokens_stay_dead() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let mut new = body(&["logs:write"]);
    new["clientId"] = json!("robot-fleet");
    new["clientSecret"] = json!("a-secret-that-is-long-enough-for-it");
    admin.post("/oauth/clients", &new).await.expect(201);
    let old = auth.client_token("robot-fleet", "a-secret-that-is-long-enough-for-it").await;
    admin.post("/oauth/clients", &new).await.expect_problem(409, "client_exists");
    admin.delete("/oauth/clients/robot-fleet").await.expect(204);
    admin.post("/oauth/clients", &new).await.expect(201);
    assert!(!auth.is_active(&old).await);
    let new = auth.client_token("robot-fleet", "a-secret-that-is-long-enough-for-it").await;
    assert!(auth.is_active(&new).await);
}

#[tokio::test]
async fn nobody_hands_out_what_they_do_not_hold() {
    let auth = TestAuth::start().await;
    let clerk = auth.with_permissions(&["clients:write", "clients:read", "logs:*"]).await;
    clerk.post("/oauth/clients", &body(&["logs:read"])).await.expect(201);
    clerk.post("/oauth/clients", &body(&["logs:*"])).await.expect(201);
    for permissions in [&["users:write"][..], &["*:*"], &["logs:read", "db:query"], &["*:read"]] {
        clerk.post("/oauth/clients", &body(permissions)).await.expect_problem(403, "permission_denied");
    }
    // Nor by way of a stronger client's secret.
    clerk.post("/oauth/clients/ouranos-crm/secret", &json!({})).await.expect_problem(403, "permission_denied");
    let weak = auth.with_permissions(&["clients:read"]).await;
    weak.post("/oauth/clients", &body(&[])).await.expect_problem(403, "permission_denied");
    weak.delete("/oauth/clients/ouranos-crm").await.expect_problem(403, "permission_denied");
    auth.with_permissions(&["logs:read"]).await.get("/oauth/clients").await.expect_problem(403, "permission_denied");
}

#[tokio::test]
async fn a_new_secret_ends_the_old_one_now_or_after_an_overlap() {
    let auth = TestAuth::start().await;
    let other = auth.second().await;
    let admin = auth.admin().await;
    let made = admin.post("/oauth/clients", &body(&["logs:write"])).await.expect(201).json();
    let (id, first) = (text(&made, "clientId"), text(&made, "clientSecret"));
    let path = format!("/oauth/clients/{id}/secret");
    let second = text(&admin.post(&path, &json!({ "overlapSeconds": 60 })).await.expect(200).json(), "clientSecret");
    let (a, b) = (auth.client_token(&id, &first).await, auth.client_token(&id, &second).await);
    assert!(auth.is_active(&a).await && auth.is_active(&b).await);
    let third = text(&admin.post(&path, &json!({})).await.expect(200).json(), "clientSecret");
    for old in [&first, &second] {
        let form = [("grant_type", "client_credentials"), ("client_id", id.as_str()), ("client_secret", old.as_str())];
        auth.client.request(axum::http::Method::POST, "/oauth/token").form(&form).await.expect(401);
    }
    assert!(!auth.is_active(&a).await && !auth.is_active(&b).await);
    wait_until("the other instance knows", async || !other.is_active(&a).await).await;
    let c = auth.client_token(&id, &third).await;
    assert!(auth.is_active(&c).await && other.is_active(&c).await);
    admin.post(&path, &json!({ "overlapSeconds": 604_801 })).await.expect_problem(422, "invalid_request");
    admin.post("/oauth/clients/nobody/secret", &json!({})).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn bad_clients_are_refused_with_every_bad_field() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let with = |member: &str, value: Value| {
        let mut body = body(&[]);
        body[member] = value;
        body
    };
    for (member, value) in [
        ("clientId", json!("a b")),
        ("clientId", json!("../../x")),
        ("clientSecret", json!("too-short")),
        ("name", json!("")),
        ("grantTypes", json!([])),
        ("grantTypes", json!(["password"])),
        ("permissions", json!(["everything"])),
        ("permissions", json!(["Logs:read"])),
        ("redirect", json!("x")),
    ] {
        let answer = admin.post("/oauth/clients", &with(member, value.clone())).await;
        answer.clone().expect_problem(422, "invalid_request");
        assert!(answer.text().contains(&format!("/{member}")), "{member} {value}: {answer}");
    }
    let answer = admin.post("/oauth/clients", &json!({ "name": "", "grantTypes": "x", "permissions": [7] })).await;
    assert_eq!(answer.json()["errors"].as_array().unwrap().len(), 3, "{answer}");
}

#[tokio::test]
async fn the_list_has_pages() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    for _ in 0..3 {
        admin.post("/oauth/clients", &body(&[])).await.expect(201);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("/oauth/clients?limit=2{cursor}")).await.expect(200).json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|client| text(client, "clientId")));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((count, seen.len()), (5, 5), "{seen:?}");
}

#[tokio::test]
async fn the_first_start_makes_the_clients_and_a_later_one_changes_nothing() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let crm = admin.get("/oauth/clients/ouranos-crm").await.expect(200).json();
    let expected = ["access:check", "tokens:verify", "users:read", "users:write", "roles:read", "grants:read"];
    assert_eq!(crm["permissions"], json!(expected));
    let new = admin.post("/oauth/clients/ouranos-crm/secret", &json!({})).await.expect(200).json();
    let again = auth.second().await;
    again.client_token("ouranos-crm", &text(&new, "clientSecret")).await;
    assert_eq!(again.admin().await.get("/oauth/clients/ouranos-crm").await.json()["createdAt"], crm["createdAt"]);
}

#[test]
fn a_bootstrap_file_that_is_wrong_says_where() {
    let long = "x".repeat(32);
    for (file, named) in [
        (json!({ "clients": { "gaia": { "secret": "short" } } }), "gaia"),
        (json!({ "clients": { "stranger": { "secret": long } } }), "stranger"),
        (json!({ "clients": { "stranger": { "secret": long, "permissions": ["all"] } } }), "all"),
        (json!({ "clients": { "gaia": { "secret": long, "admin": true } } }), "expected"),
    ] {
        let error = format!("{:#}", Bootstrap::parse(&file.to_string()).unwrap_err());
        assert!(error.contains(named) && !error.contains(&long), "{error}");
    }
    Bootstrap::parse(&json!({ "clients": { "gaia": { "secret": long } } }).to_string()).unwrap();
}

#[test]
fn only_user_service_writes_credentials_and_the_desk_resets_them() {
    let holders = |wanted: &str| -> Vec<&str> {
        let may = |permissions: &[&str]| permissions.iter().any(|held| permission_matches(held, wanted));
        KNOWN_CLIENTS.iter().filter(|client| may(client.permissions)).map(|client| client.client_id).collect()
    };
    assert_eq!(holders("credentials:write"), ["user-service"]);
    assert_eq!(holders("credentials:reset"), ["ouranos-desk"]);
    assert_eq!(holders("factors:write"), ["ouranos-desk"]);
    assert_eq!(holders("nodes:read"), ["router-service"]);
    assert_eq!(holders("requests:delegate"), ["router-service"]);
    assert!(KNOWN_CLIENTS.iter().flat_map(|client| client.permissions).all(|permission| is_permission(permission)));
}

#[test]
fn epochs_only_go_up() {
    let now = chrono::Utc::now();
    assert_eq!(next_epoch(now, None), now.timestamp_millis());
    assert_eq!(next_epoch(now, Some(i64::MAX - 1)), i64::MAX);
    assert_eq!(next_epoch(now, Some(1)), now.timestamp_millis());
}
