//! An authenticator in software, with the browser around it: makes passkeys and answers challenges, rightly or with what a test
//! wants to be wrong.

use auth_service::webauthn::Algorithm;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) const UP: u8 = 1 << 0;
pub(crate) const UV: u8 = 1 << 2;
pub(crate) const BE: u8 = 1 << 3;
pub(crate) const BS: u8 = 1 << 4;
const AT: u8 = 1 << 6;

enum Key {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

pub(crate) struct Authenticator {
    key: Key,
    pub(crate) credential_id: Vec<u8>,
    pub(crate) user_handle: Vec<u8>,
    pub(crate) count: u32,
}

/// What is about to be said; a test changes it.
pub(crate) struct Saying {
    pub(crate) client_data: Value,
    pub(crate) rp_id: String,
    pub(crate) flags: u8,
    pub(crate) count: u32,
    /// The algorithm that the key claims to be for.
    pub(crate) algorithm: i64,
    pub(crate) format: &'static str,
}

/// CBOR's head of a value.
fn head(major: u8, argument: usize) -> Vec<u8> {
    match argument {
        0..24 => vec![major << 5 | argument as u8],
        24..256 => vec![major << 5 | 24, argument as u8],
        _ => [&[major << 5 | 25][..], &(argument as u16).to_be_bytes()].concat(),
    }
}

pub(crate) fn bytes(content: &[u8]) -> Vec<u8> {
    [head(2, content.len()), content.to_vec()].concat()
}

pub(crate) fn text(content: &str) -> Vec<u8> {
    [head(3, content.len()), content.as_bytes().to_vec()].concat()
}

pub(crate) fn integer(number: i64) -> Vec<u8> {
    if number < 0 { head(1, (-1 - number) as usize) } else { head(0, number as usize) }
}

pub(crate) fn map(members: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut map = head(5, members.len());
    for (key, value) in members {
        map.extend_from_slice(key);
        map.extend_from_slice(value);
    }
    map
}

fn encode(content: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(content)
}

impl Authenticator {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let key = match algorithm {
            Algorithm::EdDsa => Key::EdDsa(Ed25519KeyPair::generate().unwrap()),
            _ => Key::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()),
        };
        let credential_id = Sha256::digest(uuid::Uuid::new_v4()).to_vec();
        Self { key, credential_id, user_handle: Vec::new(), count: 0 }
    }

    fn algorithm(&self) -> i64 {
        match self.key {
            Key::Es256(_) => -7,
            Key::EdDsa(_) => -8,
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            Key::Es256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Key::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn cose(&self, algorithm: i64) -> Vec<u8> {
        match &self.key {
            Key::Es256(pair) => {
                let point = pair.public_key().as_ref();
                map(&[
                    (integer(1), integer(2)),
                    (integer(3), integer(algorithm)),
                    (integer(-1), integer(1)),
                    (integer(-2), bytes(&point[1..33])),
                    (integer(-3), bytes(&point[33..])),
                ])
            }
            Key::EdDsa(pair) => map(&[
                (integer(1), integer(1)),
                (integer(3), integer(algorithm)),
                (integer(-1), integer(6)),
                (integer(-2), bytes(pair.public_key().as_ref())),
            ]),
        }
    }

    fn saying(&self, kind: &str, options: &Value, rp_id: &Value, origin: &str) -> Saying {
        Saying {
            client_data: json!({
                "type": kind, "challenge": options["challenge"], "origin": origin, "crossOrigin": false,
            }),
            rp_id: rp_id.as_str().unwrap().to_owned(),
            flags: UP | UV,
            count: self.count,
            algorithm: self.algorithm(),
            format: "none",
        }
    }

    /// `navigator.credentials.create()`.
    pub(crate) fn create(&mut self, options: &Value, origin: &str, change: impl FnOnce(&mut Saying)) -> Value {
        assert_eq!(options["attestation"], "none");
        self.user_handle = URL_SAFE_NO_PAD.decode(options["user"]["id"].as_str().unwrap()).unwrap();
        let mut saying = self.saying("webauthn.create", options, &options["rp"]["id"], origin);
        change(&mut saying);
        let client_data = saying.client_data.to_string();
        let mut data = authenticator_data(&saying, AT);
        data.extend_from_slice(&[0; 16]);
        data.extend_from_slice(&(self.credential_id.len() as u16).to_be_bytes());
        data.extend_from_slice(&self.credential_id);
        data.extend(self.cose(saying.algorithm));
        let signed = [data.as_slice(), &Sha256::digest(&client_data)].concat();
        let statement = match saying.format {
            "packed" => map(&[(text("alg"), integer(saying.algorithm)), (text("sig"), bytes(&self.sign(&signed)))]),
            _ => map(&[]),
        };
        let object =
            map(&[(text("fmt"), text(saying.format)), (text("attStmt"), statement), (text("authData"), bytes(&data))]);
        json!({
            "id": encode(&self.credential_id), "rawId": encode(&self.credential_id), "type": "public-key",
            "authenticatorAttachment": "platform", "clientExtensionResults": { "credProps": { "rk": true } },
            "response": {
                "clientDataJSON": encode(client_data.as_bytes()), "attestationObject": encode(&object),
                "transports": ["internal", "hybrid"], "publicKeyAlgorithm": self.algorithm(),
            },
        })
    }

    /// `navigator.credentials.get()`.
    pub(crate) fn get(&mut self, options: &Value, origin: &str, change: impl FnOnce(&mut Saying)) -> Value {
        assert!(options.get("allowCredentials").is_none(), "nobody is told who has a passkey");
        let mut saying = self.saying("webauthn.get", options, &options["rpId"], origin);
        change(&mut saying);
        let client_data = saying.client_data.to_string();
        let data = authenticator_data(&saying, 0);
        let signature = self.sign(&[data.as_slice(), &Sha256::digest(&client_data)].concat());
        json!({
            "id": encode(&self.credential_id), "rawId": encode(&self.credential_id), "type": "public-key",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": encode(client_data.as_bytes()), "authenticatorData": encode(&data),
                "signature": encode(&signature), "userHandle": encode(&self.user_handle),
            },
        })
    }
}

fn authenticator_data(saying: &Saying, more: u8) -> Vec<u8> {
    let mut data = Sha256::digest(&saying.rp_id).to_vec();
    data.push(saying.flags | more);
    data.extend_from_slice(&saying.count.to_be_bytes());
    data
}
