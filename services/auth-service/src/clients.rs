//! OAuth clients: names, secrets, and what one may grant to another. No axum, no store.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use kronos_common::identity::permission_matches;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use utoipa::ToSchema;

use crate::{grants::ScopedGrant, keys::Algorithm};

/// Bytes of randomness in a secret that is made here.
const SECRET_BYTES: usize = 32;
/// A chosen secret has at least so many characters: 112 bits even if it is hexadecimal.
pub const SHORTEST_SECRET: usize = 28;
pub const LONGEST_SECRET: usize = 256;

/// How a client gets tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum GrantType {
    #[serde(rename = "client_credentials")]
    ClientCredentials,
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    #[serde(rename = "refresh_token")]
    RefreshToken,
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
}

impl GrantType {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ClientCredentials, Self::AuthorizationCode, Self::RefreshToken, Self::DeviceCode, Self::TokenExchange];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }
}

/// How a client shows that it is the one it says (RFC 7591 section 2). With a secret, both of the ways to send it are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AuthMethod {
    ClientSecretBasic,
    ClientSecretPost,
    /// An assertion signed with a key of its own (RFC 7523).
    PrivateKeyJwt,
    /// A public client, which can keep no secret.
    None,
}

impl AuthMethod {
    /// Whether the client has a secret.
    pub const fn has_secret(self) -> bool {
        matches!(self, Self::ClientSecretBasic | Self::ClientSecretPost)
    }

    /// Whether the client can show that it is the one it says.
    pub const fn is_confidential(self) -> bool {
        !matches!(self, Self::None)
    }
}

/// A client's row, without its secret.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    pub client_id: String,
    pub name: String,
    pub grant_types: Vec<String>,
    /// What it may do itself, and the most that a user's token of a third party's client may hold.
    pub permissions: Vec<String>,
    /// What it may do itself on some resources alone; no token says it, services ask for it.
    #[schema(value_type = Vec<ScopedGrant>)]
    pub scoped_permissions: sqlx::types::Json<Vec<ScopedGrant>>,
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
    pub token_endpoint_auth_method: AuthMethod,
    pub require_pkce: bool,
    /// A JWK set: the keys of `private_key_jwt`.
    pub jwks: Option<serde_json::Value>,
    pub jwks_uri: Option<String>,
    /// What it may ask for beside permissions.
    pub scopes: Vec<String>,
    /// Audiences beside Kronos itself that its tokens may be for.
    pub resources: Vec<String>,
    /// One of ours: no consent, and all that the user may do.
    pub first_party: bool,
    pub id_token_signed_response_alg: Algorithm,
    /// Every token of it must be bound to a key (RFC 9449).
    pub dpop_bound_access_tokens: bool,
    /// Goes up when tokens issued before must be refused.
    pub epoch: i64,
    /// Who made it: a user's or a client's id.
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub secret_rotated_at: Option<DateTime<Utc>>,
}

impl Client {
    /// Whether it may use this grant.
    pub fn may_use(&self, grant: GrantType) -> bool {
        self.grant_types.iter().any(|held| held == grant.name())
    }
}

/// What a secret is compared with.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StoredSecrets {
    pub secret_hash: Option<Vec<u8>>,
    pub previous_secret_hash: Option<Vec<u8>>,
    pub previous_valid_until: Option<DateTime<Utc>>,
}

/// A client with what its authentication needs.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Registered {
    #[sqlx(flatten)]
    pub client: Client,
    #[sqlx(flatten)]
    pub secrets: StoredSecrets,
    pub registration_token_hash: Option<Vec<u8>>,
    /// A node that comes like a client; no row of the table of clients.
    #[sqlx(skip)]
    pub is_node: bool,
}

/// A new random secret.
pub fn new_secret() -> String {
    let bytes: [u8; SECRET_BYTES] = rand::rng().random();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What is stored of a secret. A plain hash is enough, because secrets are random and long.
pub fn hash_secret(secret: &str) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}

impl StoredSecrets {
    /// Whether `secret` is the current one, or the one before while its overlap lasts; in constant time.
    pub fn accept(&self, secret: &str, now: DateTime<Utc>) -> bool {
        let hash = hash_secret(secret);
        let current = self.secret_hash.as_ref().map_or(Choice::from(0), |stored| hash.ct_eq(stored));
        let previous = match (&self.previous_secret_hash, self.previous_valid_until) {
            (Some(previous), Some(until)) if now < until => hash.ct_eq(previous),
            _ => Choice::from(0),
        };
        (current | previous).into()
    }
}

/// Whether a text has the form of a permission: two to four segments of lowercase letters, digits and hyphens, or `*`.
pub fn is_permission(text: &str) -> bool {
    let segment = |segment: &str| {
        segment == "*"
            || (segment.starts_with(|first: char| first.is_ascii_lowercase())
                && segment.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')))
    };
    text.len() <= 128 && (2..=4).contains(&text.split(':').count()) && text.split(':').all(segment)
}

/// The first of `wanted` that `held` does not cover: nobody hands out what they do not have.
pub fn first_not_held<'w>(held: &[String], wanted: &'w [String]) -> Option<&'w String> {
    wanted.iter().find(|wanted| !held.iter().any(|granted| permission_matches(granted, wanted)))
}

/// The permissions of a token for `scope` (RFC 6749 section 3.3): all that the client holds, or those that it names, each of
/// which the client must hold. The error is the first that it does not.
pub fn narrow(held: &[String], scope: Option<&str>) -> Result<Vec<String>, String> {
    let Some(scope) = scope.map(str::trim).filter(|scope| !scope.is_empty()) else {
        return Ok(held.to_vec());
    };
    let mut wanted: Vec<String> = scope.split_ascii_whitespace().map(str::to_owned).collect();
    wanted.sort();
    wanted.dedup();
    match first_not_held(held, &wanted) {
        None => Ok(wanted),
        Some(missing) => Err(missing.clone()),
    }
}

/// The permission that two both cover, if any: segment by segment the one that is no wildcard.
fn overlap(one: &str, other: &str) -> Option<String> {
    if one.split(':').count() != other.split(':').count() {
        return None;
    }
    let segments = one.split(':').zip(other.split(':')).map(|pair| match pair {
        (one, other) if one == other => Some(one),
        ("*", other) => Some(other),
        (one, "*") => Some(one),
        _ => None,
    });
    segments.collect::<Option<Vec<_>>>().map(|segments| segments.join(":"))
}

/// What both hold, without what another of the result covers.
pub fn intersect(one: &[String], other: &[String]) -> Vec<String> {
    let mut both: Vec<String> =
        one.iter().flat_map(|one| other.iter().filter_map(move |other| overlap(one, other))).collect();
    both.sort();
    both.dedup();
    let covered = |permission: &String| both.iter().any(|by| by != permission && permission_matches(by, permission));
    both.iter().filter(|permission| !covered(permission)).cloned().collect()
}

/// What was granted, split: names such as `openid`, and permissions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    pub names: Vec<String>,
    pub permissions: Vec<String>,
}

impl Scope {
    /// Reads what was asked for. The error is the first that is neither a name that the client may ask for nor a permission.
    pub fn parse(text: &str, client: &Client) -> Result<Self, String> {
        let mut scope = Self::default();
        for item in text.split_ascii_whitespace() {
            let (list, item) = match item {
                name if client.scopes.iter().any(|held| held == name) => (&mut scope.names, name),
                permission if is_permission(permission) => (&mut scope.permissions, permission),
                other => return Err(other.to_owned()),
            };
            if !list.iter().any(|known| known == item) {
                list.push(item.to_owned());
            }
        }
        Ok(scope)
    }

    /// Reads what is stored.
    pub fn stored(items: &[String]) -> Self {
        let (permissions, names) = items.iter().cloned().partition(|item| is_permission(item));
        Self { names, permissions }
    }

    /// As one list, as it is stored.
    pub fn items(&self) -> Vec<String> {
        self.names.iter().chain(&self.permissions).cloned().collect()
    }

    /// Whether it asks for nothing that was not granted. Where no permission was named, all that may be had was granted.
    pub fn is_within(&self, granted: &Self) -> bool {
        self.names.iter().all(|name| granted.has(name))
            && (granted.permissions.is_empty() || first_not_held(&granted.permissions, &self.permissions).is_none())
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|held| held == name)
    }

    /// The permissions of a user's token: the user's, at most the client's unless it is one of ours, at most those asked for.
    pub fn permissions_of(&self, client: &Client, held: &[String]) -> Vec<String> {
        let most = if client.first_party { held.to_vec() } else { intersect(&client.permissions, held) };
        if self.permissions.is_empty() { most } else { intersect(&self.permissions, &most) }
    }
}

/// A client's next epoch: later than any before it, even one of a deleted client of the same name.
pub fn next_epoch(now: DateTime<Utc>, current: Option<i64>) -> i64 {
    now.timestamp_millis().max(current.map_or(0, |epoch| epoch + 1))
}
