//! Attacks on the verifier: every one is refused, and the untouched token is not.

use aws_lc_rs::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::identity::Revocation;

const NOW: i64 = 1_800_000_000;
const KID: &str = "key-1";

struct Forge {
    key: Ed25519KeyPair,
    verifier: Verifier,
    revocations: Revocations,
}

impl Forge {
    fn new() -> Self {
        let key = Ed25519KeyPair::generate().expect("generate a key");
        let config = Identity {
            issuer: "http://kronos.test".into(),
            audience: "kronos".into(),
            jwks_url: String::new(),
            auth_url: String::new(),
            user_url: String::new(),
            client_id: String::new(),
            client_secret: String::new().into(),
        };
        let revocations = Revocations::none();
        let verifier = Verifier::with_keys(&config, &key_set(&key, KID), revocations.clone());
        Self { key, verifier, revocations }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        assemble(header, claims, |message| self.key.sign(message).as_ref().to_vec())
    }

    async fn code(&self, token: &str) -> String {
        match self.verifier.verify_at(token, NOW).await {
            Ok(_) => "accepted".into(),
            Err(problem) => problem.code().to_owned(),
        }
    }
}

fn key_set(key: &Ed25519KeyPair, kid: &str) -> JwkSet {
    let x = URL_SAFE_NO_PAD.encode(key.public_key());
    JwkSet { keys: vec![json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x})] }
}

fn assemble(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "at+jwt", "kid": KID})
}

fn claims() -> Value {
    json!({
        "iss": "http://kronos.test", "sub": "ada", "aud": "kronos", "iat": NOW - 10, "exp": NOW + 590, "jti": "t-1",
        "sid": "s-1", "client_id": "web", "roles": ["customer"], "permissions": ["logs:read"], "epoch": 4,
    })
}

fn with(mut value: Value, name: &str, member: Value) -> Value {
    value[name] = member;
    value
}

fn without(mut value: Value, name: &str) -> Value {
    value.as_object_mut().expect("an object").remove(name);
    value
}

#[tokio::test]
async fn a_good_token_is_believed_twice() {
    let forge = Forge::new();
    let token = forge.sign(&header(), &claims());
    for _ in 0..2 {
        let claims = forge.verifier.verify_at(&token, NOW).await.expect("good");
        assert_eq!((claims.sub.as_str(), claims.epoch), ("ada", 4));
    }
    let list = forge.sign(&header(), &with(claims(), "aud", json!(["other", "kronos"])));
    assert_eq!(forge.code(&list).await, "accepted");
}

#[tokio::test]
async fn no_algorithm_but_ours_is_believed() {
    let forge = Forge::new();
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256", "RS256", "ES256", "ES384", "PS512", "eddsa", "Ed25519 "] {
        let header = with(header(), "alg", json!(alg));
        assert_eq!(forge.code(&assemble(&header, &claims(), |_| vec![])).await, "token_invalid", "{alg} unsigned");
        assert_eq!(forge.code(&forge.sign(&header, &claims())).await, "token_invalid", "{alg} signed");
    }
    for alg in [json!(null), json!(["EdDSA"]), json!(1), json!({"EdDSA": 1})] {
        let header = with(header(), "alg", alg);
        assert_eq!(forge.code(&forge.sign(&header, &claims())).await, "token_malformed");
    }
}

#[tokio::test]
async fn the_public_key_is_no_secret_to_sign_with() {
    let forge = Forge::new();
    let public = forge.key.public_key().as_ref().to_vec();
    let set = serde_json::to_vec(&key_set(&forge.key, KID)).expect("serialises");
    for secret in [public.clone(), URL_SAFE_NO_PAD.encode(&public).into_bytes(), set, vec![], b"secret".to_vec()] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        for alg in ["HS256", "EdDSA"] {
            let token =
                assemble(&with(header(), "alg", json!(alg)), &claims(), |m| hmac::sign(&key, m).as_ref().to_vec());
            assert_eq!(forge.code(&token).await, "token_invalid", "{alg}");
        }
    }
}

#[tokio::test]
async fn a_key_that_the_token_brings_is_not_read() {
    let forge = Forge::new();
    let mine = Ed25519KeyPair::generate().expect("generate a key");
    let own = key_set(&mine, KID).keys.remove(0);
    let helps = [
        ("jwk", own),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("x5u", json!("http://127.0.0.1:1/chain.pem")),
        ("x5c", json!(["MIIB"])),
    ];
    for (name, help) in helps {
        let header = with(header(), name, help);
        let token = assemble(&header, &claims(), |message| mine.sign(message).as_ref().to_vec());
        assert_eq!(forge.code(&token).await, "token_invalid", "{name}");
    }
}

#[tokio::test]
async fn a_key_id_is_only_looked_up() {
    let forge = Forge::new();
    let long = "k".repeat(4096);
    for kid in [
        "",
        "key-2",
        "../../../dev/null",
        "/etc/passwd",
        "key-1' or '1'='1",
        "key-1\0",
        "|id",
        "http://127.0.0.1:1",
        &long,
    ] {
        let token = forge.sign(&with(header(), "kid", json!(kid)), &claims());
        assert_eq!(forge.code(&token).await, "token_invalid", "{kid}");
    }
    assert_eq!(forge.code(&forge.sign(&without(header(), "kid"), &claims())).await, "token_malformed");
    assert_eq!(forge.code(&forge.sign(&with(header(), "kid", json!(1)), &claims())).await, "token_malformed");
}

#[tokio::test]
async fn other_kinds_of_token_are_no_access_tokens() {
    let forge = Forge::new();
    for typ in ["JWT", "id+jwt", "logout+jwt", "dpop+jwt", "", "at+jwt "] {
        let token = forge.sign(&with(header(), "typ", json!(typ)), &claims());
        assert_eq!(forge.code(&token).await, "token_invalid", "{typ}");
    }
    assert_eq!(forge.code(&forge.sign(&without(header(), "typ"), &claims())).await, "token_malformed");
    assert_eq!(forge.code(&forge.sign(&with(header(), "crit", json!(["b64"])), &claims())).await, "token_invalid");
    assert_eq!(
        forge.code(&forge.sign(&with(header(), "typ", json!("application/AT+JWT")), &claims())).await,
        "accepted"
    );
}

#[tokio::test]
async fn a_signature_is_neither_missing_nor_another() {
    let forge = Forge::new();
    let good = forge.sign(&header(), &claims());
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let other = Ed25519KeyPair::generate().expect("generate a key");
    let forged = URL_SAFE_NO_PAD.encode(other.sign(message.as_bytes()));
    let zeros = URL_SAFE_NO_PAD.encode([0u8; 64]);
    for bad in ["", "AA", &forged, &zeros, &signature[1..], &format!("{signature}A"), &format!("{signature}==")] {
        assert_eq!(forge.code(&format!("{message}.{bad}")).await, "token_invalid", "{bad}");
    }
    let payload = URL_SAFE_NO_PAD.encode(with(claims(), "permissions", json!(["*:*"])).to_string());
    let (head, _) = message.split_once('.').expect("two parts");
    assert_eq!(forge.code(&format!("{head}.{payload}.{signature}")).await, "token_invalid");
}

#[tokio::test]
async fn what_is_not_a_token_is_malformed() {
    let forge = Forge::new();
    let good = forge.sign(&header(), &claims());
    let long = format!("{good}{}", "A".repeat(LONGEST_TOKEN_BYTES));
    for bad in ["", "a", "a.b", "..", "a.b.c.d", "é.é.é", &format!("{good}.x"), &good.replace('.', " "), &long] {
        assert_eq!(forge.code(bad).await, "token_malformed", "{bad:.40}");
    }
}

#[tokio::test]
async fn every_claim_must_be_there_with_its_type_and_meaning() {
    let forge = Forge::new();
    for name in ["iss", "sub", "aud", "exp", "iat", "jti", "client_id", "roles", "permissions", "epoch"] {
        assert_eq!(forge.code(&forge.sign(&header(), &without(claims(), name))).await, "token_invalid", "no {name}");
        for value in [json!(null), json!({}), json!(true), json!([1]), json!([[]])] {
            let token = forge.sign(&header(), &with(claims(), name, value.clone()));
            assert_eq!(forge.code(&token).await, "token_invalid", "{name} = {value}");
        }
    }
    let bad = [
        ("iss", json!("http://kronos.test/")),
        ("aud", json!("Kronos")),
        ("aud", json!([])),
        ("aud", json!(["other"])),
        ("sub", json!("")),
        ("jti", json!("")),
        ("client_id", json!("")),
        ("exp", json!((NOW + 590).to_string())),
        ("exp", json!(NOW as f64 + 590.5)),
        ("exp", json!(-1)),
        ("exp", json!(i64::MAX)),
        ("exp", json!(NOW - 10 + LONGEST_TOKEN_LIFE_SECONDS + 1)),
        ("exp", json!(NOW - 10)),
        ("iat", json!(NOW + 60)),
        ("iat", json!(i64::MIN)),
        ("nbf", json!(NOW + 60)),
        ("nbf", json!("0")),
        ("permissions", json!("*:*")),
        ("roles", json!("administrator")),
        ("sid", json!(7)),
        ("epoch", json!("4")),
    ];
    for (name, value) in bad {
        let token = forge.sign(&header(), &with(claims(), name, value.clone()));
        assert_eq!(forge.code(&token).await, "token_invalid", "{name} = {value}");
    }
    let twice = claims().to_string().replacen('{', "{\"sub\":\"eve\",", 1);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header().to_string()), URL_SAFE_NO_PAD.encode(twice));
    let signature = URL_SAFE_NO_PAD.encode(forge.key.sign(message.as_bytes()));
    assert_eq!(forge.code(&format!("{message}.{signature}")).await, "token_invalid", "a claim twice");
}

#[tokio::test]
async fn a_remembered_token_still_ends() {
    let forge = Forge::new();
    let token = forge.sign(&header(), &claims());
    assert_eq!(forge.code(&token).await, "accepted");
    let problem = forge.verifier.verify_at(&token, NOW + 600).await.expect_err("over");
    assert_eq!(problem.code(), "token_expired");
}

#[tokio::test]
async fn a_remembered_token_is_revoked_at_once() {
    let forge = Forge::new();
    let token = forge.sign(&header(), &claims());
    assert_eq!(forge.code(&token).await, "accepted");
    forge.revocations.apply(&Revocation::Subject { subject: "ada".into(), epoch: 4 });
    assert_eq!(forge.code(&token).await, "accepted", "its own epoch is good");
    forge.revocations.apply(&Revocation::Subject { subject: "ada".into(), epoch: 5 });
    assert_eq!(forge.code(&token).await, "token_revoked");
    let later = forge.sign(&header(), &with(claims(), "epoch", json!(5)));
    assert_eq!(forge.code(&later).await, "accepted");
    forge.revocations.apply(&Revocation::session_now("s-1"));
    assert_eq!(forge.code(&later).await, "token_revoked");
}

#[tokio::test]
async fn a_withdrawn_key_is_believed_no_more_even_where_its_token_is_remembered() {
    let forge = Forge::new();
    let token = forge.sign(&header(), &claims());
    assert_eq!(forge.code(&token).await, "accepted");
    let next = Ed25519KeyPair::generate().expect("generate a key");
    let mut both = key_set(&forge.key, KID);
    both.keys.extend(key_set(&next, "key-2").keys);
    forge.verifier.replace_keys(&both);
    assert_eq!(forge.code(&token).await, "accepted", "while both are in the set");
    forge.verifier.replace_keys(&key_set(&next, "key-2"));
    assert_eq!(forge.code(&token).await, "token_invalid");
}

#[tokio::test]
async fn without_any_key_set_a_token_is_neither_good_nor_bad() {
    let forge = Forge::new();
    let config = Identity {
        issuer: "http://kronos.test".into(),
        audience: "kronos".into(),
        jwks_url: "http://127.0.0.1:1/jwks.json".into(),
        auth_url: String::new(),
        user_url: String::new(),
        client_id: String::new(),
        client_secret: String::new().into(),
    };
    let context = Context::detached("test");
    let verifier =
        Verifier::connect(&config, Revocations::none(), &context).await.expect("starts without auth-service");
    let problem = verifier.verify(&forge.sign(&header(), &claims())).await.expect_err("no keys");
    assert_eq!(problem.status().as_u16(), 503);
    context.shutdown.cancel();
}

proptest! {
    #[test]
    fn no_change_of_one_character_is_believed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]") {
        let forge = Forge::new();
        let token = forge.sign(&header(), &claims());
        let at = at.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != token);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        prop_assert!(runtime.block_on(forge.verifier.verify_at(&changed, NOW)).is_err());
    }

    #[test]
    fn no_text_makes_the_verifier_panic(text in "\\PC{0,200}") {
        let forge = Forge::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        prop_assert!(runtime.block_on(forge.verifier.verify_at(&text, NOW)).is_err());
    }
}
