//! What clients find by themselves.

use std::collections::HashSet;

use serde_json::Value;

use crate::harness::{TestAuth, header};

#[tokio::test]
async fn the_key_set_has_the_signing_key_and_nothing_private() {
    let auth = TestAuth::start().await;
    let answer = auth.client.get("/.well-known/jwks.json").await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let set = answer.json();
    let keys = set["keys"].as_array().unwrap();
    let algorithms: HashSet<&str> = keys.iter().map(|key| key["alg"].as_str().unwrap()).collect();
    assert_eq!(algorithms, HashSet::from(["EdDSA", "RS256", "ES256"]));
    for key in keys {
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            assert!(key.get(private).is_none(), "{key}");
        }
    }
    let own = header(&auth.admin_token().await)["kid"].clone();
    let key = keys.iter().find(|key| key["kid"] == own).unwrap();
    // A library that knows nothing of us verifies a token with it.
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.clone()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    rules.set_audience(&["kronos"]);
    rules.set_issuer(&[&auth.config.identity.issuer]);
    let token = auth.admin_token().await;
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    jsonwebtoken::decode::<Value>(&token, &key, &rules).unwrap();
}

#[tokio::test]
async fn the_metadata_names_only_what_exists() {
    let auth = TestAuth::start().await;
    let document = auth.client.get("/openapi.json").await.expect(200).json();
    let paths: HashSet<&String> = document["paths"].as_object().unwrap().keys().collect();
    for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
        let metadata = auth.client.get(path).await.expect(200).json();
        assert_eq!(metadata["issuer"], auth.config.identity.issuer);
        assert_eq!(metadata["request_uri_parameter_supported"], false, "absent means true");
        assert_eq!(metadata["id_token_signing_alg_values_supported"][0], "RS256");
        for needed in ["token_endpoint", "introspection_endpoint", "revocation_endpoint", "registration_endpoint"] {
            assert!(metadata[needed].is_string(), "{needed}");
        }
        for (name, value) in metadata.as_object().unwrap() {
            if name.ends_with("_endpoint") || name == "jwks_uri" {
                let path = value.as_str().unwrap().strip_prefix(&auth.config.identity.issuer).unwrap().to_owned();
                assert!(paths.contains(&path), "{name} {value}");
            }
        }
    }
}

#[tokio::test]
async fn every_operation_but_the_public_ones_asks_for_a_token() {
    let auth = TestAuth::start().await;
    let public = [
        "/auth/login",
        "/auth/refresh",
        "/auth/register",
        "/auth/password-reset",
        "/auth/password-reset/confirm",
        "/auth/verify-email",
        "/auth/verify-email/resend",
        "/auth/passkeys/login/begin",
        "/auth/passkeys/login/finish",
        "/nodes/enrol",
        "/nodes/rotate",
        "/oauth/token",
        "/oauth/introspect",
        "/oauth/revoke",
        "/oauth/authorize",
        "/oauth/consent",
        "/oauth/par",
        "/oauth/device_authorization",
        "/oauth/end_session",
        "/oauth/login",
        "/oauth/logged_in",
        "/oauth/style.css",
        "/oauth/passkey.js",
        "/oauth/external/{provider}",
        "/oauth/external/{provider}/callback",
        "/oauth/external/{provider}/link",
        "/device",
    ];
    let document = auth.client.get("/openapi.json").await.expect(200).json();
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let is_public = public.contains(&path.as_str()) || path.starts_with("/.well-known/");
            assert_eq!(operation.get("security").is_none(), is_public, "{method} {path}");
            if !is_public {
                let method = method.to_uppercase().parse().unwrap();
                let path = path
                    .replace("{userId}", &uuid::Uuid::nil().to_string())
                    .replace("{id}", &uuid::Uuid::nil().to_string());
                auth.client.request(method, &path).await.expect_problem(401, "token_missing");
                asked += 1;
            }
        }
    }
    assert!(asked >= 12, "{asked}");
}

#[tokio::test]
async fn it_becomes_ready_by_itself() {
    let auth = TestAuth::start().await;
    auth.operations().get("/ready").await.expect(200);
    auth.stop().await;
}
