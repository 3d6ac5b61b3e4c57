//! What is decided of an OAuth client, and which decisions fit together. No axum, no store.

use kronos_common::{identity::PublicJwk, problem::FieldError};
use serde_json::Value;
use url::{Host, Url};

use crate::{
    clients::{AuthMethod, Client, GrantType},
    grants::ScopedGrant,
    keys::Algorithm,
};

/// The scopes of OpenID Connect that there are.
pub const IDENTITY_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];
/// URIs of one kind, at most.
const MOST_URIS: usize = 50;
const LONGEST_URI: usize = 2000;
const MOST_KEYS: usize = 20;

/// What an administrator or the client itself decides.
#[derive(Debug, Clone)]
pub struct Settings {
    pub name: String,
    pub grant_types: Vec<String>,
    pub permissions: Vec<String>,
    pub scoped_permissions: Vec<ScopedGrant>,
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
    pub token_endpoint_auth_method: AuthMethod,
    pub require_pkce: bool,
    pub jwks: Option<Value>,
    pub jwks_uri: Option<String>,
    pub scopes: Vec<String>,
    pub resources: Vec<String>,
    pub first_party: bool,
    pub id_token_signed_response_alg: Algorithm,
    pub dpop_bound_access_tokens: bool,
}

impl Settings {
    /// A client that speaks for itself, with a secret.
    pub fn of_program(name: &str, permissions: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            grant_types: vec!["client_credentials".to_owned()],
            permissions,
            scoped_permissions: Vec::new(),
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            token_endpoint_auth_method: AuthMethod::ClientSecretBasic,
            require_pkce: true,
            jwks: None,
            jwks_uri: None,
            scopes: ["openid", "profile", "email", "offline_access"].map(str::to_owned).to_vec(),
            resources: Vec::new(),
            first_party: false,
            id_token_signed_response_alg: Algorithm::Rs256,
            dpop_bound_access_tokens: false,
        }
    }
}

impl From<Client> for Settings {
    fn from(client: Client) -> Self {
        Self {
            name: client.name,
            grant_types: client.grant_types,
            permissions: client.permissions,
            scoped_permissions: client.scoped_permissions.0,
            redirect_uris: client.redirect_uris,
            post_logout_redirect_uris: client.post_logout_redirect_uris,
            token_endpoint_auth_method: client.token_endpoint_auth_method,
            require_pkce: client.require_pkce,
            jwks: client.jwks,
            jwks_uri: client.jwks_uri,
            scopes: client.scopes,
            resources: client.resources,
            first_party: client.first_party,
            id_token_signed_response_alg: client.id_token_signed_response_alg,
            dpop_bound_access_tokens: client.dpop_bound_access_tokens,
        }
    }
}

impl Settings {
    /// What does not fit together, by the members' names on the wire.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut refuse = |member: &'static str, detail: &'static str| {
            errors.push(FieldError::new(format!("/{member}"), "invalid", detail));
        };
        let uses = |grant: GrantType| self.grant_types.iter().any(|held| held == grant.name());
        let method = self.token_endpoint_auth_method;
        if self.grant_types.is_empty() {
            refuse("grantTypes", "at least 1 items");
        }
        if uses(GrantType::AuthorizationCode) && self.redirect_uris.is_empty() {
            refuse("redirectUris", "authorization_code needs at least one");
        }
        for (member, uris) in
            [("redirectUris", &self.redirect_uris), ("postLogoutRedirectUris", &self.post_logout_redirect_uris)]
        {
            if uris.len() > MOST_URIS {
                refuse(member, "at most 50 items");
            } else if !uris.iter().all(|uri| is_redirect_uri(uri)) {
                refuse(
                    member,
                    "https, http to this machine, or an app's own scheme such as com.example.app:/; no fragment",
                );
            }
        }
        if !method.is_confidential() && (uses(GrantType::ClientCredentials) || uses(GrantType::TokenExchange)) {
            refuse("grantTypes", "a public client cannot use client_credentials or token-exchange");
        }
        if !method.is_confidential() && !self.require_pkce {
            refuse("requirePkce", "a public client needs PKCE");
        }
        match (method == AuthMethod::PrivateKeyJwt, &self.jwks, &self.jwks_uri) {
            (_, Some(_), Some(_)) => refuse("jwksUri", "jwks or jwksUri, not both"),
            (true, None, None) => refuse("jwks", "private_key_jwt needs jwks or jwksUri"),
            _ => {}
        }
        if self.jwks.as_ref().is_some_and(|jwks| !is_key_set(jwks)) {
            refuse("jwks", "1 to 20 public keys: {\"keys\":[…]}, EC P-256, Ed25519 or RSA of at least 2048 bits");
        }
        if self.jwks_uri.as_ref().is_some_and(|uri| !is_jwks_uri(uri)) {
            refuse("jwksUri", "an https address");
        }
        if !self.scopes.iter().all(|scope| IDENTITY_SCOPES.contains(&scope.as_str())) {
            refuse("scopes", "openid, profile, email, offline_access; permissions go into permissions");
        }
        if self.resources.len() > MOST_URIS || !self.resources.iter().all(|uri| is_resource(uri)) {
            refuse("resources", "at most 50 absolute URIs without a fragment");
        }
        if self.permissions.len() > 200 {
            errors.push(FieldError::new("/permissions", "too_many", "at most 200 items"));
        }
        if self.scoped_permissions.len() > 200 {
            errors.push(FieldError::new("/scopedPermissions", "too_many", "at most 200 items"));
        }
        errors
    }
}

fn is_redirect_uri(text: &str) -> bool {
    if text.len() > LONGEST_URI || text.contains(['*', '\\']) || text.contains(char::is_whitespace) {
        return false;
    }
    let Ok(uri) = Url::parse(text) else { return false };
    if uri.fragment().is_some() || !uri.username().is_empty() || uri.password().is_some() {
        return false;
    }
    match uri.scheme() {
        "https" => uri.host().is_some(),
        "http" => is_this_machine(&uri),
        // RFC 8252 section 7.1: the reverse of a domain name.
        own => own.contains('.'),
    }
}

fn is_this_machine(uri: &Url) -> bool {
    match uri.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_jwks_uri(text: &str) -> bool {
    text.len() <= LONGEST_URI
        && Url::parse(text)
            .is_ok_and(|uri| uri.fragment().is_none() && (uri.scheme() == "https" || is_this_machine(&uri)))
}

fn is_resource(text: &str) -> bool {
    text.len() <= LONGEST_URI && Url::parse(text).is_ok_and(|uri| uri.fragment().is_none())
}

fn is_key_set(value: &Value) -> bool {
    value["keys"].as_array().is_some_and(|keys| {
        (1..=MOST_KEYS).contains(&keys.len()) && keys.iter().all(|key| PublicJwk::read(key).is_some())
    })
}
