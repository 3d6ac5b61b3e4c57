//! Tokens that must not be believed, each signed as cleverly as an attacker could, some even with the true key.

use auth_service::keys::{Algorithm, SigningKey};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kronos_common::seal::Keyring;
use serde_json::{Value, json};

use crate::harness::{TestAuth, claims, header};

/// Signs with the platform's own key: only what the token says can be wrong then.
async fn true_key(auth: &TestAuth) -> SigningKey {
    let (kid, sealed): (String, Vec<u8>) =
        sqlx::query_as("select kid, sealed_private from signing_keys where state = 'active' and algorithm = 'EdDSA'")
            .fetch_one(&auth.pool)
            .await
            .unwrap();
    let pkcs8 =
        Keyring::new(&auth.config.sealing).unwrap().open(&sealed, format!("signing-key:{kid}").as_bytes()).unwrap();
    SigningKey::open(&kid, Algorithm::EdDsa, &pkcs8).unwrap()
}

fn join(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

async fn expect_refused(auth: &TestAuth, what: &str, token: &str) {
    assert_eq!(auth.verify(token).await, json!({ "active": false }), "{what} by /auth/verify");
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let answer = auth.client.get("/oauth/clients").bearer(token).await;
        assert_eq!(answer.status, 401, "{what} as a bearer: {answer}");
        assert!(answer.code().starts_with("token_"), "{what}: {answer}");
    }
}

#[tokio::test]
async fn forged_headers_and_signatures_are_refused() {
    let auth = TestAuth::start().await;
    let good = auth.admin_token().await;
    let (header, claims) = (header(&good), claims(&good));
    let signature = URL_SAFE_NO_PAD.decode(good.rsplit('.').next().unwrap()).unwrap();
    let with = |member: &str, value: Value| {
        let mut header = header.clone();
        header[member] = value;
        header
    };
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256", "RS256", "ES256", "EdDSA256"] {
        for signature in [vec![], signature.clone(), vec![0; 64]] {
            expect_refused(&auth, alg, &join(&with("alg", json!(alg)), &claims, |_| signature)).await;
        }
    }
    expect_refused(&auth, "alg null", &join(&with("alg", Value::Null), &claims, |_| signature.clone())).await;
    for (what, bytes) in
        [("no signature", vec![]), ("null signature", vec![0; 64]), ("short signature", signature[..32].to_vec())]
    {
        expect_refused(&auth, what, &join(&header, &claims, |_| bytes)).await;
    }
    // The public key as an HMAC secret, in all the forms a library may take it.
    let set = auth.client.get("/.well-known/jwks.json").await.expect(200);
    let keys = set.json()["keys"].as_array().unwrap().clone();
    let x = keys.iter().find(|key| key["alg"] == "EdDSA").unwrap()["x"].as_str().unwrap().to_owned();
    for secret in [URL_SAFE_NO_PAD.decode(&x).unwrap(), x.into_bytes(), set.body.clone(), vec![]] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let forged = join(&with("alg", json!("HS256")), &claims, |message| hmac::sign(&key, message).as_ref().to_vec());
        expect_refused(&auth, "HMAC with the public key", &forged).await;
    }
    // Another key, shown in the token itself, or fetched from the attacker.
    let own = auth_service::keys::generate(Algorithm::EdDsa).unwrap();
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(&own.pkcs8).unwrap();
    let sign = |message: &[u8]| pair.sign(message).as_ref().to_vec();
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(&own.public_key), "kid": own.kid });
    for (member, value) in [
        ("jwk", jwk),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("x5u", json!("http://127.0.0.1:1/cert")),
        ("kid", json!(own.kid)),
        ("kid", json!("../../../../dev/null")),
        ("kid", json!("' or 1=1 --")),
        ("kid", json!("")),
        ("kid", json!(7)),
        ("kid", Value::Null),
    ] {
        expect_refused(&auth, member, &join(&with(member, value), &claims, sign)).await;
    }
    expect_refused(&auth, "another key", &join(&header, &claims, sign)).await;
}

#[tokio::test]
async fn tokens_of_the_wrong_kind_time_or_type_are_refused_though_truly_signed() {
    let auth = TestAuth::start().await;
    let key = true_key(&auth).await;
    let good = claims(&auth.admin_token().await);
    assert!(auth.is_active(&key.sign(&good)).await, "the test's own signing works");
    let with = |member: &str, value: Value| {
        let mut claims = good.clone();
        claims[member] = value;
        key.sign(&claims)
    };
    let now = chrono::Utc::now().timestamp();
    for (member, value) in [
        ("exp", json!(now - 60)),
        ("exp", json!(now + 86_400)),
        ("exp", json!("9999999999")),
        ("exp", json!(1e300)),
        ("exp", Value::Null),
        ("iat", json!(now + 600)),
        ("nbf", json!(now + 600)),
        ("iss", json!("http://evil.example")),
        ("iss", json!(["x"])),
        ("aud", json!("billing")),
        ("aud", json!([])),
        ("aud", json!({ "kronos": true })),
        ("sub", json!("")),
        ("sub", json!({ "$ne": null })),
        ("permissions", json!("*:*")),
        ("permissions", json!({ "0": "*:*" })),
        ("roles", json!([7])),
        ("epoch", json!("1")),
        ("sid", json!(7)),
        ("client_id", Value::Null),
    ] {
        expect_refused(&auth, &format!("{member} {value}"), &with(member, value)).await;
    }
    for member in ["exp", "iat", "iss", "aud", "sub", "jti", "client_id", "permissions", "epoch"] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(member);
        expect_refused(&auth, &format!("without {member}"), &key.sign(&claims)).await;
    }
}

#[tokio::test]
async fn a_tampered_token_is_refused() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    let parts: Vec<&str> = access.split('.').collect();
    let mut more = claims(&access);
    more["permissions"] = json!(["*:*"]);
    let more = URL_SAFE_NO_PAD.encode(more.to_string());
    for tampered in [
        format!("{}.{more}.{}", parts[0], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{access}.{}", parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!(".{}.{}", parts[1], parts[2]),
        format!("{access}="),
        format!("{access}A"),
        access.to_uppercase(),
    ] {
        expect_refused(&auth, "tampered", &tampered).await;
    }
    assert!(auth.is_active(&access).await);
}

#[tokio::test]
async fn a_token_belongs_in_the_header_alone() {
    let auth = TestAuth::start().await;
    let token = auth.admin_token().await;
    auth.client.get(&format!("/oauth/clients?access_token={token}")).await.expect(401);
    auth.client.get("/oauth/clients").header("authorization", format!("Basic {token}")).await.expect(401);
    auth.client.get("/oauth/clients").header("cookie", format!("token={token}")).await.expect(401);
}

#[tokio::test]
async fn other_kinds_of_token_and_unknown_demands_are_refused_though_truly_signed() {
    let auth = TestAuth::start().await;
    let key = true_key(&auth).await;
    let good = claims(&auth.admin_token().await);
    assert!(auth.is_active(&key.sign_as("at+jwt", &good)).await, "the test's own signing works");
    for typ in ["JWT", "id+jwt", "logout+jwt", "dpop+jwt", "kronos-audit+jwt", "at+jwt;x", "", "at"] {
        expect_refused(&auth, typ, &key.sign_as(typ, &good)).await;
    }
    // What the platform itself signs for another use.
    let reader = auth.with_permissions(&["audit:read"]).await;
    let checkpoint = reader.get("/auth/audit/checkpoint").await.expect(200).json();
    expect_refused(&auth, "a checkpoint", checkpoint["checkpoint"].as_str().unwrap()).await;
}

#[tokio::test]
async fn psychic_signatures_and_unknown_extensions_are_refused() {
    let auth = TestAuth::start().await;
    let good = auth.admin_token().await;
    let (header, claims) = (header(&good), claims(&good));
    let with = |members: Value| {
        let mut header = header.clone();
        header.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        header
    };
    // r = s = 0 of ES256 and ES384 (CVE-2022-21449), also in DER, and the neutral element of Ed25519.
    let mut neutral = vec![0; 64];
    neutral[0] = 1;
    for alg in ["ES256", "ES384", "EdDSA"] {
        for signature in [vec![0; 64], vec![0; 96], vec![0x30, 6, 2, 1, 0, 2, 1, 0], neutral.clone(), vec![0xff; 64]] {
            expect_refused(&auth, alg, &join(&with(json!({ "alg": alg })), &claims, |_| signature)).await;
        }
    }
    let own = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let key = aws_lc_rs::signature::KeyPair::public_key(&own).as_ref().to_vec();
    let sign = |message: &[u8]| own.sign(message).as_ref().to_vec();
    for members in [
        json!({ "x5c": ["MIIB"] }),
        json!({ "crit": ["b64"], "b64": false }),
        json!({ "zip": "DEF" }),
        json!({ "cty": "JWT" }),
        json!({ "alg": ["EdDSA"] }),
        json!({ "jwk": { "kty": "oct", "k": URL_SAFE_NO_PAD.encode(&key) }, "alg": "HS256" }),
        json!({ "kid": "|touch /tmp/kronos" }),
        json!({ "kid": "http://127.0.0.1:1/key" }),
        json!({ "kid": { "$gt": "" } }),
        json!({ "kid": "x".repeat(4096) }),
    ] {
        let what = members.to_string();
        expect_refused(&auth, &what, &join(&with(members), &claims, sign)).await;
    }
}
