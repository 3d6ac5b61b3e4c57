//! Machine identities: made, enrolled by themselves, with keys that follow one another.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kronos_testkit::{TestResponse, unique};
use serde_json::{Value, json};

use crate::harness::TestAuth;

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

    fn enrolment(&self, code: &str) -> Value {
        let text = format!("kronos-node-enrolment:{}:{}", code.replace('-', ""), self.key_id);
        json!({ "claimCode": code, "publicKey": self.jwk(), "signature": self.sign(&text) })
    }
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
