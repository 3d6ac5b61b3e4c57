//! Ways to show who calls, beside tokens: API keys and signatures of nodes, asked of a server that plays auth-service.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    routing::{get, post},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kronos_common::{
    identity::{Revocation, RevocationPublisher, api_key},
    service::Context,
};
use kronos_testkit::{TestRequest, wait_until};
use router_service::{
    node_keys::seconds_now,
    signature::{self, ContentDigest, Message},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::harness::{Gateway, Instance, World};

/// Plays auth-service: gives service tokens, keys of nodes, and tokens for one API key.
#[derive(Clone)]
struct Auth {
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicU64>,
    key: Arc<str>,
    token: Arc<str>,
}

struct Scene {
    world: World,
    gateway: Gateway,
    echo: Instance,
    auth: Auth,
    node: Uuid,
    pair: Ed25519KeyPair,
}

impl Scene {
    async fn new() -> Self {
        let (mut world, echo) = (World::new().await, Instance::start("a"));
        let (node, pair) = (Uuid::now_v7(), Ed25519KeyPair::generate().unwrap());
        let auth = Auth {
            keys: Arc::new(Mutex::new(vec![jwk(&pair)])),
            asked: Arc::default(),
            key: api_key::text(Uuid::now_v7(), &[7; 20]).into(),
            token: world.issuer.token("robot-owner", &["robots:read"]).into(),
        };
        let router = Router::new()
            .route(
                "/oauth/token",
                post(async || Json(json!({"access_token": "x", "token_type": "Bearer", "expires_in": 600}))),
            )
            .route("/nodes/{id}/keys", get(node_keys))
            .route("/auth/api-keys/token", post(exchange))
            .with_state((auth.clone(), node));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        world.config.identity.auth_url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let gateway = world.start().await;
        gateway.upstream("echo", &[&echo]).await;
        for (name, ways) in [
            ("key", json!(["apiKey"])),
            ("signed", json!(["signature"])),
            ("any", json!(["signature", "apiKey", "jwt"])),
            ("maybe", json!(["signature", "none"])),
        ] {
            let path = format!("/{name}");
            gateway
                .route(json!({"name": name, "match": {"path": {"prefix": path}}, "upstream": "echo", "authentication": ways}))
                .await;
        }
        Self { world, gateway, echo, auth, node, pair }
    }

    /// A request that the node signs: these components, created so many seconds ago.
    fn sign(&self, method: Method, path: &str, body: &'static str, components: &str, ago: i64) -> TestRequest {
        let headers = self.headers(&self.pair, &method, path, body, components, ago);
        let request = self.gateway.client.request(method, path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        if body.is_empty() { request } else { request.body(body) }
    }

    /// The headers of a signature for this gateway.
    fn headers(
        &self,
        pair: &Ed25519KeyPair,
        method: &Method,
        path: &str,
        body: &str,
        components: &str,
        ago: i64,
    ) -> [(&'static str, String); 3] {
        let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)));
        let (nonce, created) = (Uuid::now_v7(), seconds_now() - ago);
        let input = format!("sig=({components});created={created};keyid=\"{}\";nonce=\"{nonce}\"", self.node);
        let mut headers = HeaderMap::new();
        headers.insert("content-digest", digest.parse().unwrap());
        headers.insert("signature-input", input.parse().unwrap());
        headers.insert("signature", "sig=:AAAA:".parse().unwrap());
        let signed = signature::read(&headers).unwrap().unwrap();
        let (plain, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let host = self.gateway.running.api.to_string();
        let message = Message { method, path: plain, query, host: &host, is_https: false, headers: &headers };
        let made = STANDARD.encode(pair.sign(signed.base(&message).unwrap().as_bytes()));
        [("signature-input", input), ("signature", format!("sig=:{made}:")), ("content-digest", digest)]
    }
}

fn jwk(pair: &Ed25519KeyPair) -> Value {
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": x, "x": x})
}

async fn node_keys(State((auth, node)): State<(Auth, Uuid)>, Path(id): Path<Uuid>) -> Result<Json<Value>, StatusCode> {
    auth.asked.fetch_add(1, SeqCst);
    if id != node {
        return Err(StatusCode::NOT_FOUND);
    }
    Ok(Json(json!({"keys": *auth.keys.lock().unwrap()})))
}

async fn exchange(State((auth, _)): State<(Auth, Uuid)>, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    auth.asked.fetch_add(1, SeqCst);
    let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
    if shown == Some(&format!("Bearer {}", auth.key)) {
        Ok(Json(json!({"accessToken": &*auth.token})))
    } else {
        Err(StatusCode::UNAUTHORIZED)
    }
}

/// RFC 9421 appendix B.2.6.
#[test]
fn the_rfcs_own_ed25519_signature_is_good() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        ("content-length", "18"),
        (
            "content-digest",
            "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
        ),
        (
            "signature-input",
            "sig-b26=(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\")\
             ;created=1618884473;keyid=\"test-key-ed25519\"",
        ),
        (
            "signature",
            "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
        ),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    let key = STANDARD.decode("MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=").unwrap();
    let key = &key[key.len() - 32..];
    let message = |path, headers| Message {
        method: &Method::POST,
        path,
        query: Some("param=Value&Pet=dog"),
        host: "example.com",
        is_https: true,
        headers,
    };
    let signed = signature::read(&headers).unwrap().unwrap();
    assert_eq!((signed.created, signed.key_id), (Some(1_618_884_473), "test-key-ed25519"));
    assert!(signed.is_by(key, &signed.base(&message("/foo", &headers)).unwrap()));
    assert!(!signed.is_by(key, &signed.base(&message("/fo", &headers)).unwrap()));
    let digest = ContentDigest::read(&headers).unwrap();
    assert!(digest.is_of([&br#"{"hello": "#[..], br#""world"}"#].into_iter()));
    assert!(!digest.is_of([&br#"{"hello": "w"}"#[..]].into_iter()));
}

#[tokio::test]
async fn a_nodes_signature_lets_in_and_says_who_it_is() {
    let scene = Scene::new().await;
    let node = json!([scene.node.to_string()]);
    let seen = scene.sign(Method::GET, "/signed/x?a=1", "", r#""@method" "@authority" "@path" "@query""#, 0).await;
    let seen = seen.expect(200).json();
    assert_eq!(seen["headers"]["x-kronos-subject"], node);
    assert_eq!(seen["headers"]["x-kronos-authentication"], json!(["signature"]));
    let covered = r#""@method" "@target-uri" "content-digest""#;
    let seen = scene.sign(Method::POST, "/signed/x", "battery low", covered, 3).await.expect(200).json();
    assert_eq!((&seen["body"], &seen["headers"]["x-kronos-subject"]), (&json!("battery low"), &node));
    scene.sign(Method::GET, "/any", "", r#""@method" "@authority" "@path""#, 0).await.expect(200);
    assert_eq!(scene.auth.asked.load(SeqCst), 1, "its keys are remembered");
    scene.gateway.client.get("/signed").await.expect_problem(401, "signature_missing");
    scene.gateway.client.get("/maybe").await.expect(200);
    assert_eq!(scene.echo.requests(), 4);
}

#[tokio::test]
async fn a_signature_that_does_not_fit_is_refused() {
    let scene = Scene::new().await;
    let all = r#""@method" "@authority" "@path" "content-digest""#;
    let stranger = Ed25519KeyPair::generate().unwrap();
    let strange = scene.headers(&stranger, &Method::GET, "/signed", "", all, 0);
    let request = scene.gateway.client.get("/signed");
    let strange = strange.iter().fold(request, |request, (name, value)| request.header(name, value));
    for (what, request) in [
        ("another key", strange),
        ("too old", scene.sign(Method::GET, "/signed", "", all, 100)),
        ("from the future", scene.sign(Method::GET, "/signed", "", all, -60)),
        ("the path is not covered", scene.sign(Method::GET, "/signed", "", r#""@method" "@authority""#, 0)),
        ("the query is not covered", scene.sign(Method::GET, "/signed?a=1", "", all, 0)),
        ("the body is not covered", scene.sign(Method::POST, "/signed", "x", r#""@method" "@authority" "@path""#, 0)),
    ] {
        let answer = request.await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "signature_invalid"), "{what}");
    }
    let broken = scene.sign(Method::POST, "/signed", "open the door", all, 0).body("open the gate");
    broken.await.expect_problem(401, "digest_mismatch");
    let emptied = scene.sign(Method::POST, "/signed", "open the door", all, 0).body("");
    emptied.await.expect_problem(401, "digest_mismatch");
    for input in
        ["sig=()", "sig=(\"@method\")", "sig=(\"@method\" \"@method\");created=1;keyid=\"x\"", "rubbish", "sig=("]
    {
        let request = scene.gateway.client.get("/signed").header("signature-input", input);
        request.header("signature", "sig=:AAAA:").await.expect_problem(401, "signature_invalid");
    }
    assert_eq!(scene.echo.requests(), 0);
}

#[tokio::test]
async fn a_signature_counts_once_at_all_gateways() {
    let scene = Scene::new().await;
    let other = scene.world.start().await;
    let covered = r#""@method" "@authority" "@path""#;
    let sent = scene.headers(&scene.pair, &Method::GET, "/signed", "", covered, 0);
    let again = |gateway: &Gateway| {
        let request = gateway.client.get("/signed").header("host", scene.gateway.running.api.to_string());
        sent.iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    again(&scene.gateway).await.expect(200);
    again(&scene.gateway).await.expect_problem(401, "signature_replayed");
    again(&other).await.expect_problem(401, "signature_replayed");
}

#[tokio::test]
async fn a_nodes_keys_end_when_its_rights_do() {
    let scene = Scene::new().await;
    let covered = r#""@method" "@authority" "@path""#;
    scene.sign(Method::GET, "/signed", "", covered, 0).await.expect(200);
    scene.auth.keys.lock().unwrap().clear();
    let database = scene.world.database.pool("kronos_auth").await;
    let publisher =
        RevocationPublisher::start(database.clone(), &scene.world.config.redis, &Context::detached("auth-service"))
            .unwrap();
    let mut transaction = database.begin().await.unwrap();
    let revocation = Revocation::Client { client_id: scene.node.to_string(), epoch: 2 };
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await.unwrap();
    transaction.commit().await.unwrap();
    publisher.flush().await;
    wait_until("the keys were asked for again", async || {
        scene.sign(Method::GET, "/signed", "", covered, 0).await.code() == "signature_invalid"
    })
    .await;
}

#[tokio::test]
async fn an_api_key_lets_in_where_the_route_takes_it() {
    let scene = Scene::new().await;
    let (gateway, key) = (&scene.gateway, scene.auth.key.to_string());
    gateway.client.get("/key").await.expect_problem(401, "api_key_missing");
    let seen = gateway.client.get("/key").header("x-api-key", &key).await.expect(200).json();
    assert_eq!(seen["headers"]["x-kronos-subject"], json!(["robot-owner"]));
    assert_eq!(seen["headers"]["authorization"], json!([format!("Bearer {key}")]), "services verify it again");
    assert_eq!(seen["headers"]["x-api-key"], json!(null));
    gateway.client.get("/key").bearer(&key).await.expect(200);
    assert_eq!(scene.auth.asked.load(SeqCst), 1, "it is remembered");
    let wrong = api_key::text(Uuid::now_v7(), &[8; 20]);
    gateway.client.get("/key").header("x-api-key", &wrong).await.expect(401);
    gateway.client.get("/key").header("x-api-key", "rubbish").await.expect_problem(401, "api_key_invalid");
    let token = scene.world.issuer.token("u", &[]);
    gateway.client.get("/key").bearer(&token).await.expect_problem(401, "api_key_missing");
    // Any one way does, even beside a bad one.
    gateway.client.get("/any").bearer(&token).await.expect(200);
    gateway.client.get("/any").header("x-api-key", &key).await.expect(200);
    gateway.client.get("/any").bearer(&token).header("x-api-key", &wrong).await.expect(200);
    gateway.client.get("/any").await.expect_problem(401, "token_missing");
}
