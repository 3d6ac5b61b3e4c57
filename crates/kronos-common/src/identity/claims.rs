//! What an access token says (RFC 9068), with strict types: a claim of the wrong type makes the token invalid. Whether it
//! may be believed is `verifier`'s work.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The claims of a verified access token. Times are seconds since 1970 (UTC).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// The user's id; the client's id for client credentials.
    pub sub: String,
    /// Whom it is for: one text or a list on the wire.
    #[serde(deserialize_with = "one_or_many", serialize_with = "one_if_single")]
    pub aud: Vec<String>,
    /// When it ends.
    pub exp: i64,
    /// When it was issued.
    pub iat: i64,
    /// Before this it is not valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// The token's own id.
    pub jti: String,
    /// The session it came from; absent for client credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The OAuth client that asked for it.
    pub client_id: String,
    /// Names of the roles held everywhere.
    pub roles: Vec<String>,
    /// Permissions held everywhere, `resource:action`, wildcards included.
    pub permissions: Vec<String>,
    /// Version of the subject's rights; a later one revokes the token.
    pub epoch: i64,
    /// The user's name; absent for client credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// What was granted, separated by spaces (RFC 9068 section 2.2.3); absent for a login without OAuth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Who acts for the subject (RFC 8693 section 4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
    /// The key that whoever shows the token must hold (RFC 7800, RFC 9449 section 6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// Somebody who acts for the subject of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// A user's or a client's id.
    pub sub: String,
    /// The actor's own session: the token ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

/// The key that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Thumbprint of the key (RFC 7638) of DPoP proofs.
    pub jkt: String,
}

impl Claims {
    /// Whether a client speaks for itself, not for a user.
    pub fn is_client(&self) -> bool {
        self.sub == self.client_id
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, one: &str) -> Result<Self::Value, E> {
            Ok(vec![one.to_owned()])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }

    deserializer.deserialize_any(Visitor)
}

fn one_if_single<S: Serializer>(audience: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match audience {
        [one] => serializer.serialize_str(one),
        many => many.serialize(serializer),
    }
}
