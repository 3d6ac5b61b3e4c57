//! Machine identities: made, enrolled by themselves, with keys that follow one another.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::http::Method;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kronos_testkit::{TestResponse, unique, wait_until};
use serde_json::{Value, json};

use crate::harness::{TestAuth, claims};

/// A node's key pair, as a robot has it.
struct Robot {
    pair: Ed25519KeyPair,
    key_id: String,
}

impl Robot {
    fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let bytes: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        Self { key_id: auth_service::nodes::PublicKey::new(bytes).thumbprint, pair }
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(self.pair.public_key()), "alg": "EdDSA" })
    }

    fn sign(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()))
    }

    /// A client assertion (RFC 7523) of this node's.
    fn assertion(&self, node: &str, audience: &str, change: impl FnOnce(&mut Value)) -> String {
        let now = chrono::Utc::now().timestamp();
        let mut claims = json!({
            "iss": node, "sub": node, "aud": audience, "exp": now + 60, "iat": now, "jti": uuid::Uuid::new_v4(),
        });
        change(&mut claims);
        let header = json!({ "alg": "EdDSA", "kid": self.key_id });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        format!("{message}.{}", self.sign(&message))
    }

    /// Asks for a token with an assertion.
    async fn ask(&self, auth: &TestAuth, node: &str) -> TestResponse {
        ask_with(auth, &self.assertion(node, &auth.config.identity.issuer, |_| {})).await
    }

    fn enrolment(&self, code: &str) -> Value {
        let text = format!("kronos-node-enrolment:{}:{}", code.replace('-', ""), self.key_id);
        json!({ "claimCode": code, "publicKey": self.jwk(), "signature": self.sign(&text) })
    }
}

async fn ask_with(auth: &TestAuth, assertion: &str) -> TestResponse {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ];
    auth.client.request(Method::POST, "/oauth/token").form(&form).await
}

async fn node(auth: &TestAuth, robot: &Robot) -> String {
    let body = json!({ "name": unique("robot"), "publicKey": robot.jwk() });
    let made = auth.admin().await.post("/nodes", &body).await.expect(201).json();
    made["id"].as_str().unwrap().to_owned()
}

async fn claim(auth: &TestAuth) -> String {
    let claim = auth.with_permissions(&["nodes:write"]).await.post("/nodes/claims", &json!({})).await.expect(201);
    claim.json()["code"].as_str().unwrap().to_owned()
}

async fn enrol(auth: &TestAuth, body: &Value) -> TestResponse {
    auth.client.post("/nodes/enrol", body).await
}

#[test]
fn a_thumbprint_is_that_of_rfc_8037() {
    let x: [u8; 32] =
        URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap().try_into().unwrap();
    let expected = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    assert_eq!(auth_service::nodes::PublicKey::new(x).thumbprint, expected);
}

#[tokio::test]
async fn who_may_makes_a_node_and_others_see_its_keys() {
    let auth = TestAuth::start().await;
    let (robot, name) = (Robot::new(), unique("robot"));
    let body = json!({ "name": name, "publicKey": robot.jwk(), "attributes": { "serial": "R-42" } });
    auth.client.post("/nodes", &body).await.expect(401);
    auth.with_permissions(&["nodes:read"]).await.post("/nodes", &body).await.expect(403);
    let writer = auth.with_permissions(&["nodes:write", "nodes:read"]).await;
    let made = writer.post("/nodes", &body).await.expect(201);
    let (id, key_id) = (made.json()["id"].as_str().unwrap().to_owned(), made.json()["keyId"].clone());
    assert_eq!(key_id, robot.key_id);
    assert_eq!(made.header("location"), Some(format!("/nodes/{id}").as_str()));
    writer.post("/nodes", &body).await.expect_problem(409, "node_exists");
    let other = json!({ "name": unique("robot"), "publicKey": robot.jwk() });
    writer.post("/nodes", &other).await.expect_problem(409, "key_exists");
    let keys = writer.get(&format!("/nodes/{id}/keys")).await.expect(200).json();
    assert_eq!((keys["keys"][0]["kid"].clone(), keys["keys"][0]["x"].clone()), (key_id, robot.jwk()["x"].clone()));
    let node = writer.get(&format!("/nodes/{id}")).await.expect(200).json();
    assert_eq!((node["attributes"]["serial"].clone(), node["disabled"].clone()), (json!("R-42"), json!(false)));
    writer.get(&format!("/nodes/{}", uuid::Uuid::now_v7())).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_key_must_be_a_public_ed25519_one() {
    let auth = TestAuth::start().await;
    let writer = auth.with_permissions(&["nodes:write"]).await;
    let good = Robot::new().jwk();
    for (member, value) in
        [("kty", json!("EC")), ("crv", json!("X25519")), ("x", json!("AAAA")), ("x", json!(7)), ("d", json!("secret"))]
    {
        let mut key = good.clone();
        key[member] = value;
        let answer = writer.post("/nodes", &json!({ "name": unique("robot"), "publicKey": key })).await;
        answer.clone().expect_problem(422, "invalid_request");
        assert!(!answer.text().contains("secret"), "{answer}");
    }
}

#[tokio::test]
async fn nodes_are_listed_by_page_and_filter() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    for index in 0..5 {
        let body = json!({ "name": format!("Arm-{index}"), "publicKey": Robot::new().jwk() });
        let id = admin.post("/nodes", &body).await.expect(201).json()["id"].clone();
        if index < 2 {
            let path = format!("/nodes/{}", id.as_str().unwrap());
            admin.patch(&path, &json!({ "disabled": true })).await.expect(200);
        }
    }
    let page = admin.get("/nodes?limit=3").await.expect(200).json();
    assert_eq!(page["items"][0]["name"], "Arm-4");
    let rest = format!("/nodes?limit=3&cursor={}", page["nextCursor"].as_str().unwrap());
    assert_eq!(admin.get(&rest).await.expect(200).json()["items"].as_array().unwrap().len(), 2);
    for (query, count) in [("disabled=true", 2), ("disabled=false", 3), ("name=aRM-3", 1), ("name=%00", 5)] {
        let found = admin.get(&format!("/nodes?{query}")).await.expect(200).json();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{query}");
    }
}

#[tokio::test]
async fn a_node_enrols_itself_with_a_code_that_is_good_once() {
    let auth = TestAuth::start().await;
    let writer = auth.with_permissions(&["nodes:write"]).await;
    let name = unique("robot");
    let body = json!({ "name": name, "attributes": { "customer": "acme" }, "expiresInSeconds": 600 });
    let claim = writer.post("/nodes/claims", &body).await.expect(201).json();
    let code = claim["code"].as_str().unwrap();
    let robot = Robot::new();
    let mut enrolment = robot.enrolment(code);
    enrolment["claimCode"] = json!(code.to_lowercase());
    enrolment["name"] = json!("what I call myself");
    enrolment["attributes"] = json!({ "serial": "R-7", "customer": "somebody else" });
    let made = enrol(&auth, &enrolment).await.expect(201).json();
    assert_eq!((made["name"].clone(), made["keyId"].clone()), (json!(name), json!(robot.key_id)));
    let path = format!("/nodes/{}", made["id"].as_str().unwrap());
    let node = auth.admin().await.get(&path).await.expect(200).json();
    assert_eq!(node["attributes"], json!({ "serial": "R-7", "customer": "acme" }));
    enrol(&auth, &Robot::new().enrolment(code)).await.expect_problem(403, "claim_refused");
    let stored: Vec<u8> = sqlx::query_scalar("select code_hash from node_claims").fetch_one(&auth.pool).await.unwrap();
    assert_eq!(stored.len(), 32);
    let kinds: Vec<String> = sqlx::query_scalar("select kind from audit where kind like 'node-%' order by sequence")
        .fetch_all(&auth.pool)
        .await
        .unwrap();
    assert_eq!(kinds, ["node-claim-created", "node-enrolled"]);
}

#[tokio::test]
async fn one_code_used_by_many_at_once_enrols_one() {
    let auth = TestAuth::start().await;
    let code = claim(&auth).await;
    let robots: Vec<Value> = (0..8).map(|_| Robot::new().enrolment(&code)).collect();
    let answers = futures::future::join_all(robots.iter().map(|body| enrol(&auth, body))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    let nodes: i64 = sqlx::query_scalar("select count(*) from nodes").fetch_one(&auth.pool).await.unwrap();
    assert_eq!(nodes, 1);
}

#[tokio::test]
async fn guesses_old_codes_and_foreign_signatures_are_refused_alike_and_throttled() {
    let auth = TestAuth::start_with(|config| config.accounts.guesses_per_network = 5).await;
    let (code, robot) = (claim(&auth).await, Robot::new());
    let guess = robot.enrolment("0000-0000-0000-0000");
    let mut foreign = robot.enrolment(&code);
    foreign["signature"] = Robot::new().enrolment(&code)["signature"].clone();
    let mut other_code = robot.enrolment(&code);
    other_code["signature"] = guess["signature"].clone();
    let mut answers = Vec::new();
    for body in [&guess, &foreign, &other_code] {
        let answer = enrol(&auth, body).await;
        answer.clone().expect_problem(403, "claim_refused");
        answers.push(answer.json()["detail"].clone());
    }
    sqlx::query("update node_claims set expires_at = now()").execute(&auth.pool).await.unwrap();
    let late = enrol(&auth, &robot.enrolment(&code)).await;
    answers.push(late.expect(403).json()["detail"].clone());
    assert!(answers.iter().all(|detail| *detail == answers[0]));
    enrol(&auth, &guess).await.expect(403);
    enrol(&auth, &guess).await.expect_problem(429, "rate_limited");
    // A good code is no guess.
    enrol(&auth, &robot.enrolment(&claim(&auth).await)).await.expect(201);
}

#[tokio::test]
async fn a_key_is_followed_by_another_with_an_overlap() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let (old, new) = (Robot::new(), Robot::new());
    let body = json!({ "name": unique("robot"), "publicKey": old.jwk() });
    let id = admin.post("/nodes", &body).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let rotate = async |new: &Robot, old: &Robot, signer: &Robot, overlap: u32| {
        let text = format!("kronos-node-rotation:{}:{}", old.key_id, new.key_id);
        let body = json!({
            "publicKey": new.jwk(), "keyId": old.key_id, "signature": signer.sign(&text),
            "newKeySignature": new.sign(&text), "overlapSeconds": overlap,
        });
        auth.client.post("/nodes/rotate", &body).await
    };
    let good_keys = async || {
        let keys = admin.get(&format!("/nodes/{id}/keys")).await.expect(200).json();
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    rotate(&new, &old, &Robot::new(), 60).await.expect_problem(403, "rotation_refused");
    rotate(&new, &old, &old, 60).await.expect(201);
    assert_eq!(good_keys().await, [new.key_id.clone(), old.key_id.clone()]);
    sqlx::query("update node_keys set good_until = now() where good_until is not null")
        .execute(&auth.pool)
        .await
        .unwrap();
    assert_eq!(good_keys().await, std::slice::from_ref(&new.key_id));
    // The key that ended lets nobody in any more.
    rotate(&Robot::new(), &old, &old, 60).await.expect_problem(403, "rotation_refused");
    let third = Robot::new();
    let body = json!({ "publicKey": third.jwk(), "endOthersAfterSeconds": 0 });
    admin.post(&format!("/nodes/{id}/keys"), &body).await.expect(201);
    assert_eq!(good_keys().await, std::slice::from_ref(&third.key_id));
    admin.delete(&format!("/nodes/{id}/keys/{}", third.key_id)).await.expect(204);
    admin.delete(&format!("/nodes/{id}/keys/{}", third.key_id)).await.expect_problem(404, "not_found");
    assert!(good_keys().await.is_empty());
}

#[tokio::test]
async fn a_disabled_node_has_no_good_key_until_it_is_enabled() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let (node, stranger) = (Robot::new(), Robot::new());
    let body = json!({ "name": unique("robot"), "publicKey": node.jwk() });
    let id = admin.post("/nodes", &body).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let keys = format!("/nodes/{id}/keys");
    admin.patch(&format!("/nodes/{id}"), &json!({ "disabled": true })).await.expect(200);
    assert_eq!(admin.get(&keys).await.expect(200).json()["keys"], json!([]));
    let text = format!("kronos-node-rotation:{}:{}", node.key_id, stranger.key_id);
    let body = json!({
        "publicKey": stranger.jwk(), "keyId": node.key_id, "signature": node.sign(&text),
        "newKeySignature": stranger.sign(&text),
    });
    auth.client.post("/nodes/rotate", &body).await.expect_problem(403, "rotation_refused");
    let published: Vec<String> = sqlx::query_scalar("select subject from revocations where kind = 'client'")
        .fetch_all(&auth.pool)
        .await
        .unwrap();
    assert_eq!(published, std::slice::from_ref(&id));
    admin.patch(&format!("/nodes/{id}"), &json!({ "disabled": false })).await.expect(200);
    assert_eq!(admin.get(&keys).await.expect(200).json()["keys"][0]["kid"], node.key_id);
}

#[tokio::test]
async fn a_node_gets_tokens_by_its_key_and_is_seen() {
    let auth = TestAuth::start().await;
    let (robot, stranger) = (Robot::new(), Robot::new());
    let (id, other) = (node(&auth, &robot).await, node(&auth, &stranger).await);
    let token = robot.ask(&auth, &id).await.expect(200).json();
    let held = claims(token["access_token"].as_str().unwrap());
    assert_eq!((&held["sub"], &held["client_id"]), (&json!(id), &json!(id)));
    assert_eq!(held["permissions"], json!(auth.config.accounts.node_permissions));
    assert!(token.get("refresh_token").is_none());
    assert!(auth.is_active(token["access_token"].as_str().unwrap()).await);
    let admin = auth.admin().await;
    let shown = admin.get(&format!("/nodes/{id}")).await.expect(200).json();
    assert!(shown["lastSeenAt"].is_string(), "{shown}");
    assert!(admin.get(&format!("/nodes/{other}")).await.expect(200).json()["lastSeenAt"].is_null());

    let issuer = auth.config.identity.issuer.clone();
    let good = robot.assertion(&id, &issuer, |_| {});
    ask_with(&auth, &good).await.expect(200);
    for (what, bad) in [
        ("again", good),
        ("another node's key", stranger.assertion(&id, &issuer, |_| {})),
        ("another node's name", robot.assertion(&id, &issuer, |claims| claims["sub"] = json!(other))),
        ("another issuer", robot.assertion(&id, &issuer, |claims| claims["iss"] = json!(other))),
        ("another audience", robot.assertion(&id, "https://elsewhere.test", |_| {})),
        ("no such node", robot.assertion(&uuid::Uuid::now_v7().to_string(), &issuer, |_| {})),
        ("its id in capitals", robot.assertion(&id.to_uppercase(), &issuer, |_| {})),
    ] {
        let answer = ask_with(&auth, &bad).await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (401, Some("invalid_client")), "{what}: {answer}");
    }
    let secret = [("grant_type", "client_credentials"), ("client_id", id.as_str()), ("client_secret", "")];
    auth.client.request(Method::POST, "/oauth/token").form(&secret).await.expect(401);
    // Only what nodes may do, and only for themselves.
    let wider = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", &robot.assertion(&id, &issuer, |_| {})),
        ("scope", "users:read"),
    ];
    let refused = auth.client.request(Method::POST, "/oauth/token").form(&wider).await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (400, Some("invalid_scope")), "{refused}");
}

#[tokio::test]
async fn keys_that_ended_and_nodes_that_are_disabled_get_no_token_and_lose_theirs() {
    let auth = TestAuth::start().await;
    let second = auth.second().await;
    let (old, new) = (Robot::new(), Robot::new());
    let id = node(&auth, &old).await;
    let admin = auth.admin().await;
    let body = json!({ "publicKey": new.jwk(), "endOthersAfterSeconds": 0 });
    old.ask(&auth, &id).await.expect(200);
    admin.post(&format!("/nodes/{id}/keys"), &body).await.expect(201);
    old.ask(&auth, &id).await.expect(401);
    let token = new.ask(&auth, &id).await.expect(200).json()["access_token"].as_str().unwrap().to_owned();
    assert!(second.is_active(&token).await);
    admin.patch(&format!("/nodes/{id}"), &json!({ "disabled": true })).await.expect(200);
    new.ask(&auth, &id).await.expect(401);
    auth.client.get("/nodes").bearer(&token).await.expect_problem(401, "token_revoked");
    wait_until("the other instance knows", async || !second.is_active(&token).await).await;
    admin.patch(&format!("/nodes/{id}"), &json!({ "disabled": false })).await.expect(200);
    let fresh = new.ask(&auth, &id).await.expect(200).json()["access_token"].as_str().unwrap().to_owned();
    assert!(auth.is_active(&fresh).await && !auth.is_active(&token).await);
    admin.delete(&format!("/nodes/{id}/keys/{}", new.key_id)).await.expect(204);
    new.ask(&auth, &id).await.expect(401);
    assert!(!auth.is_active(&fresh).await);
}

#[tokio::test]
async fn the_desk_and_the_gateway_may_do_what_their_routes_need() {
    let secret = "a secret of a client that is known by name";
    let auth = TestAuth::start_with(|config| {
        let file = config.bootstrap.file.as_ref().unwrap();
        let mut clients: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for name in ["ouranos-desk", "router-service"] {
            clients["clients"][name] = json!({ "secret": secret });
        }
        std::fs::write(file, clients.to_string()).unwrap();
    })
    .await;
    let user = auth.user(&[]).await;
    let desk = auth.client.bearer(auth.client_token("ouranos-desk", secret).await);
    let factors = format!("/auth/credentials/{}/factors", user.id);
    desk.delete(&factors).await.expect_problem(404, "not_found");
    desk.post(&format!("/auth/credentials/{}/reset", user.id), &json!({})).await.expect(202);
    desk.get("/nodes").await.expect_problem(403, "permission_denied");
    let gateway = auth.client.bearer(auth.client_token("router-service", secret).await);
    let id = node(&auth, &Robot::new()).await;
    gateway.get(&format!("/nodes/{id}/keys")).await.expect(200);
    gateway.delete(&factors).await.expect_problem(403, "permission_denied");
}
