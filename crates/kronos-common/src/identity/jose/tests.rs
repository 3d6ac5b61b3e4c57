use serde_json::json;

use super::*;

/// RFC 8037 appendix A: an Ed25519 key, its thumbprint, a signature.
#[test]
fn rfc_8037_appendix_a() {
    let key = json!({"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let key = PublicJwk::read(&key).expect("a public key");
    assert_eq!(key.thumbprint, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    // The payload is no JSON there, so that only the signature is looked at.
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let header = json!({"alg": "EdDSA"}).as_object().cloned().expect("an object");
    let jws = Jws { header, claims: Map::new(), signed, signature };
    assert!(key.signed(&jws));
    assert!(!key.signed(&Jws { signature: "AAAA", ..jws }));
}

/// RFC 7515 appendix A.2 (RS256) and A.3 (ES256); RFC 7638 section 3.1 has the thumbprint of the first key's kind.
#[test]
fn rfc_7515_appendix_a() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let rsa = json!({"kty":"RSA", "e":"AQAB",
        "n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"});
    let text = format!(
        "eyJhbGciOiJSUzI1NiJ9.{payload}.{}",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    );
    let jws = Jws::parse(&text).expect("three parts");
    let key = PublicJwk::read(&rsa).expect("a public key");
    assert!(key.signed(&jws));
    assert_eq!((jws.text("iss"), jws.seconds("exp")), (Some("joe"), Some(1_300_819_380)));
    let ec = json!({"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let text = format!(
        "eyJhbGciOiJFUzI1NiJ9.{payload}.{}",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    let other = Jws::parse(&text).expect("three parts");
    let ec = PublicJwk::read(&ec).expect("a public key");
    assert!(ec.signed(&other) && !ec.signed(&jws) && !key.signed(&other));
}

#[test]
fn keys_that_must_not_verify_are_none() {
    let good = json!({"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    assert!(PublicJwk::read(&good).is_some());
    for (name, value) in [
        ("d", json!("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI")),
        ("kty", json!("oct")),
        ("crv", json!("P-384")),
        ("x", json!("f83O")),
        ("use", json!("enc")),
        ("alg", json!("none")),
        ("alg", json!("HS256")),
    ] {
        let mut key = good.clone();
        key[name] = value;
        assert!(PublicJwk::read(&key).is_none(), "{key}");
    }
    assert!(PublicJwk::read(&json!({"kty":"oct","k":"c2VjcmV0"})).is_none());
    assert!(PublicJwk::read(&json!({"kty":"RSA","n":"AQAB","e":"AQAB"})).is_none(), "too short");
}
