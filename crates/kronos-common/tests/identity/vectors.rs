//! Project Wycheproof's signature vectors through the function that verifies tokens: each attack that it knows is refused, and
//! each good signature is taken.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use wycheproof::{TestResult, ecdsa, eddsa, rsa_pkcs1_verify};

/// One vector: number, message, signature, and what must come out.
type Vector<'a> = (usize, &'a [u8], &'a [u8], TestResult);

/// Runs the vectors of one key; counts them.
fn check<'a>(algorithm: Algorithm, key: &DecodingKey, vectors: impl Iterator<Item = Vector<'a>>) -> usize {
    let mut count = 0;
    for (number, message, signature, result) in vectors {
        let taken = crypto::verify(&URL_SAFE_NO_PAD.encode(signature), message, key, algorithm);
        let taken = taken.unwrap_or(false);
        // What a library may take or not, it may.
        if result != TestResult::Acceptable {
            assert_eq!(taken, result == TestResult::Valid, "{algorithm:?} vector {number}");
        }
        count += 1;
    }
    count
}

#[test]
fn ed25519_vectors_of_wycheproof_are_judged_right() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut count = 0;
    for group in &set.test_groups {
        let key = DecodingKey::from_ed_pem(group.pem.as_bytes()).unwrap();
        let vectors = group.tests.iter().map(|test| (test.tc_id, &test.msg[..], &test.sig[..], test.result));
        count += check(Algorithm::EdDSA, &key, vectors);
    }
    assert!(count > 100, "{count}");
}

#[test]
fn es256_vectors_of_wycheproof_are_judged_right() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut count = 0;
    for group in &set.test_groups {
        let key = DecodingKey::from_ec_pem(group.pem.as_bytes()).unwrap();
        let vectors = group.tests.iter().map(|test| (test.tc_id, &test.msg[..], &test.sig[..], test.result));
        count += check(Algorithm::ES256, &key, vectors);
    }
    assert!(count > 200, "{count}");
}

#[test]
fn rs256_vectors_of_wycheproof_are_judged_right() {
    let set = rsa_pkcs1_verify::TestSet::load(rsa_pkcs1_verify::TestName::Rsa2048Sha256).unwrap();
    let mut count = 0;
    for group in &set.test_groups {
        let key = DecodingKey::from_rsa_pem(group.pem.as_bytes()).unwrap();
        let vectors = group.tests.iter().map(|test| (test.tc_id, &test.msg[..], &test.sig[..], test.result));
        count += check(Algorithm::RS256, &key, vectors);
    }
    assert!(count > 200, "{count}");
}
