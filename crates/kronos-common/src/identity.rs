//! Who calls, and what they may: verification of access tokens, revocations, permission extractors, and the client by
//! which services call each other under their own name. Issuing tokens is auth-service's work alone.

pub mod api_key;
pub mod claims;
pub mod client;
pub mod declaration;
pub mod dpop;
pub mod jose;
pub mod jwks;
pub mod permission;
pub mod revocation;
mod revocation_follower;
pub mod revocation_publisher;
pub mod service_token;
pub mod verifier;

pub use claims::{Actor, Claims, Confirmation};
pub use client::{Client, ClientError};
pub use declaration::declare;
pub use jose::{Jws, PublicJwk};
pub use jwks::JwkSet;
pub use permission::{
    Allowed, Caller, Permission, is_resource, is_resource_pattern, permission_matches, resource_matches,
};
pub use revocation::{Revocation, Revocations};
pub use revocation_publisher::RevocationPublisher;
pub use service_token::ServiceToken;
pub use verifier::Verifier;

/// The longest life of an access token, in seconds. A token that claims a longer one is refused, because revocations are
/// remembered for this long only.
pub const LONGEST_TOKEN_LIFE_SECONDS: i64 = 900;
