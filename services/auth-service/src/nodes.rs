//! Machine identities: their public keys, what they sign to prove that they hold them, and what is shown of them.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use sha2::{Digest as _, Sha256};
use sqlx::types::Json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};
use uuid::Uuid;

const KEY_BYTES: usize = 32;

/// An Ed25519 public key as a JWK (RFC 8037).
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Jwk")]
pub struct PublicKey {
    pub bytes: [u8; KEY_BYTES],
    /// RFC 7638.
    pub thumbprint: String,
}

/// The members of the JWK; others are ignored.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct Jwk {
    #[schema(pattern = "^OKP$", example = "OKP")]
    kty: String,
    #[schema(pattern = "^Ed25519$", example = "Ed25519")]
    crv: String,
    /// The key, base64url.
    #[schema(
        min_length = 43,
        max_length = 43,
        pattern = "^[A-Za-z0-9_-]+$",
        example = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    )]
    x: String,
    #[serde(default)]
    #[schema(ignore)]
    d: Option<IgnoredAny>,
}

impl TryFrom<Jwk> for PublicKey {
    type Error = &'static str;

    fn try_from(jwk: Jwk) -> Result<Self, Self::Error> {
        if jwk.d.is_some() {
            return Err("a public key: this one has its private part in it, so make another");
        }
        let bytes = (jwk.kty == "OKP" && jwk.crv == "Ed25519").then(|| URL_SAFE_NO_PAD.decode(&jwk.x).ok()).flatten();
        let bytes: Option<[u8; KEY_BYTES]> = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self::new).ok_or("an Ed25519 public key as a JWK: kty OKP, crv Ed25519, x of 32 bytes")
    }
}

impl PartialSchema for PublicKey {
    fn schema() -> RefOr<Schema> {
        Jwk::schema()
    }
}

impl ToSchema for PublicKey {}

impl PublicKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(bytes));
        Self { bytes, thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(canonical)) }
    }
}

/// Whether `signature` (base64url) is the key's over the text.
pub fn has_signed(public_key: &[u8], text: &str, signature: &str) -> bool {
    let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
    UnparsedPublicKey::new(&ED25519, public_key).verify(text.as_bytes(), &signature).is_ok()
}

/// What a node signs to enrol itself: it holds the key, and means this code. `code`: capitals and digits alone.
pub fn enrolment_text(code: &str, key_id: &str) -> String {
    format!("kronos-node-enrolment:{code}:{key_id}")
}

/// What the present and the new key sign to let the new one in.
pub fn rotation_text(key_id: &str, new_key_id: &str) -> String {
    format!("kronos-node-rotation:{key_id}:{new_key_id}")
}

/// What is known of a node: texts by names.
pub type Attributes = BTreeMap<String, String>;

/// A row, as it is shown.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub id: Uuid,
    pub name: String,
    #[schema(value_type = BTreeMap<String, String>)]
    pub attributes: Json<Attributes>,
    pub disabled: bool,
    /// Who made it: a user's, client's or technician's id.
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    /// To the minute.
    pub last_seen_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    pub epoch: i64,
}

/// A key's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct NodeKey {
    pub key_id: String,
    pub node_id: Uuid,
    pub public_key: Vec<u8>,
    pub created_at: DateTime<Utc>,
    pub good_until: Option<DateTime<Utc>>,
    pub disabled_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A node's key for who verifies what it signed.
#[derive(Serialize, ToSchema)]
pub struct NodeJwk {
    kty: &'static str,
    crv: &'static str,
    alg: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    kid: String,
    x: String,
}

impl NodeKey {
    /// As a JWK (RFC 8037).
    pub fn jwk(&self) -> NodeJwk {
        let x = URL_SAFE_NO_PAD.encode(&self.public_key);
        NodeJwk { kty: "OKP", crv: "Ed25519", alg: "EdDSA", usage: "sig", kid: self.key_id.clone(), x }
    }

    /// Whether it verifies anything now.
    pub fn is_good(&self, now: DateTime<Utc>) -> bool {
        self.disabled_at.is_none() && self.good_until.is_none_or(|until| now < until)
    }
}
