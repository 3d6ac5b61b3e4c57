//! Tokens at the edge.

use kronos_common::{
    config::Redis,
    identity::{Revocation, RevocationPublisher},
    service::Context,
};
use kronos_testkit::wait_until;
use serde_json::json;

use crate::harness::{Gateway, Instance, World};

async fn secured(world: &World, echo: &Instance) -> Gateway {
    let gateway = world.start().await;
    gateway.upstream("echo", &[echo]).await;
    for (name, more) in [
        ("closed", json!({})),
        ("open", json!({"authentication": ["none"]})),
        ("either", json!({"authentication": ["jwt", "none"]})),
        ("guarded", json!({"permission": "robots:read"})),
        ("scoped", json!({"scopes": ["orders", "profile"]})),
    ] {
        let mut route = json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": "echo"});
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        gateway.route(route).await;
    }
    gateway
}

#[tokio::test]
async fn a_route_without_a_word_about_it_wants_a_token() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let gateway = secured(&world, &echo).await;
    let answer = gateway.client.get("/closed").await.expect_problem(401, "token_missing");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    for (token, code) in [
        (world.issuer.expired("u", &[]), "token_expired"),
        (world.issuer.forged("u", &[]), "token_invalid"),
        ("rubbish".to_owned(), "token_malformed"),
    ] {
        gateway.client.get("/closed").bearer(token).await.expect_problem(401, code);
    }
    gateway.client.get("/closed").header("authorization", "Basic YTpi").await.expect_problem(401, "token_malformed");
    assert_eq!(echo.requests(), 0, "nothing of this came through");
    let token = world.issuer.token("user-7", &[]);
    let seen = gateway.client.get("/closed").bearer(&token).await.expect(200).json();
    assert_eq!(seen["headers"]["authorization"], json!([format!("Bearer {token}")]), "services verify it again");
    assert_eq!(seen["headers"]["x-kronos-subject"], json!(["user-7"]));
    assert_eq!(seen["headers"]["x-kronos-client"], json!(["test-client"]));
}

#[tokio::test]
async fn an_open_route_asks_nothing() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let gateway = secured(&world, &echo).await;
    let seen = gateway.client.get("/open").header("x-kronos-subject", "admin").await.expect(200).json();
    assert_eq!(seen["headers"]["x-kronos-subject"], json!(null), "only the gateway may say this");
    gateway.client.get("/open").bearer("rubbish").await.expect(200);
    gateway.client.get("/either").await.expect(200);
    gateway.client.get("/either").bearer(world.issuer.token("u", &[])).await.expect(200);
    gateway.client.get("/either").bearer(world.issuer.forged("u", &[])).await.expect_problem(401, "token_invalid");
}

#[tokio::test]
async fn a_route_can_ask_for_a_permission() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let gateway = secured(&world, &echo).await;
    gateway.client.get("/guarded").await.expect_problem(401, "token_missing");
    let answer = gateway.client.get("/guarded").bearer(world.issuer.token("u", &["robots:write"])).await;
    let answer = answer.expect_problem(403, "permission_denied");
    assert!(answer.text().contains("robots:read"));
    gateway.client.get("/guarded").bearer(world.issuer.token("u", &["robots:*"])).await.expect(200);
}

#[tokio::test]
async fn a_route_can_ask_for_scopes() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let gateway = secured(&world, &echo).await;
    gateway.client.get("/scoped").await.expect_problem(401, "token_missing");
    let with = |scope: &str| world.issuer.build("u").claim("scope", scope).sign();
    for token in [world.issuer.token("u", &["*:*"]), with("orders"), with("orders profiles"), with("")] {
        let answer = gateway.client.get("/scoped").bearer(token).await.expect_problem(403, "insufficient_scope");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some(r#"Bearer error="insufficient_scope", scope="orders profile""#));
    }
    assert_eq!(echo.requests(), 0);
    gateway.client.get("/scoped").bearer(with("profile openid orders")).await.expect(200);
    let described = json!({"method": "GET", "path": "/scoped"});
    let explained = gateway.admin.post("/routes/explain", &described).await.expect(200).json();
    assert_eq!(explained["route"]["scopes"], json!(["orders", "profile"]), "{explained}");
}

#[tokio::test]
async fn a_spelling_does_not_slip_past_a_route() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let gateway = secured(&world, &echo).await;
    let mut socket = gateway.socket().await;
    socket.send("GET /%67uarded/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(socket.read_until("token_missing").await.starts_with("HTTP/1.1 401"));
    socket.send("GET /open/../guarded HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(socket.read_until("invalid_path").await.contains("HTTP/1.1 400"));
    socket.send("GET /open/%2e%2E/guarded HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(socket.read_until("invalid_path").await.contains("HTTP/1.1 400"));
    assert_eq!(echo.requests(), 0);
    socket.send("GET /%6fpen/a%2fb%41 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let seen = socket.read_to_end().await;
    assert!(seen.contains("/open/a%2FbA"), "the instance sees what was matched: {seen}");
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_the_edge() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let gateway = secured(&world, &echo).await;
    let token = world.issuer.build("user-7").epoch(3).sign();
    gateway.client.get("/closed").bearer(&token).await.expect(200);
    let database = world.database.pool("kronos_users").await;
    publish(&database, &world.config.redis).await;
    wait_until("the revocation arrived", async || {
        gateway.client.get("/closed").bearer(&token).await.code() == "token_revoked"
    })
    .await;
    gateway.client.get("/closed").bearer(world.issuer.build("user-7").epoch(4).sign()).await.expect(200);
}

/// What user-service does when a role is taken away.
async fn publish(database: &sqlx::PgPool, redis: &Redis) {
    let context = Context::detached("user-service");
    let publisher = RevocationPublisher::start(database.clone(), redis, &context).unwrap();
    let mut transaction = database.begin().await.unwrap();
    let revocation = Revocation::Subject { subject: "user-7".into(), epoch: 4 };
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await.unwrap();
    transaction.commit().await.unwrap();
    publisher.flush().await;
}
