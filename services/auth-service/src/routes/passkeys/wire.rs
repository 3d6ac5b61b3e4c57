//! The JSON of WebAuthn Level 3 (section 5.1.8 and 5.1.9). What an authenticator or a browser adds to it is ignored.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    flows::passkeys::challenge_life,
    store::passkeys::Passkey,
    webauthn::{Algorithm, Assertion, Registration},
};

const LONGEST: usize = 60_000;
const MOST_TRANSPORTS: usize = 8;

/// Bytes as base64url without padding.
#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 60000, pattern = "^[A-Za-z0-9_-]*$")]
pub(in crate::routes) struct Base64Url(Vec<u8>);

impl TryFrom<String> for Base64Url {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = (text.len() <= LONGEST).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten();
        bytes.map(Self).ok_or("base64url without padding")
    }
}

#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
pub(in crate::routes) enum CredentialType {
    #[serde(rename = "public-key")]
    PublicKey,
}

/// `RegistrationResponseJSON`.
#[derive(Deserialize, ToSchema)]
pub(in crate::routes) struct RegistrationCredential {
    id: Base64Url,
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "its only value is checked when it is read")]
    kind: CredentialType,
    response: AttestationResponse,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::routes) struct AttestationResponse {
    #[serde(rename = "clientDataJSON")]
    client_data_json: Base64Url,
    attestation_object: Base64Url,
    /// How the authenticator is reached; kept as a hint for later.
    #[serde(default)]
    transports: Vec<String>,
}

/// `AuthenticationResponseJSON`.
#[derive(Deserialize, ToSchema)]
pub(in crate::routes) struct AssertionCredential {
    id: Base64Url,
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "its only value is checked when it is read")]
    kind: CredentialType,
    response: AssertionResponse,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::routes) struct AssertionResponse {
    #[serde(rename = "clientDataJSON")]
    client_data_json: Base64Url,
    authenticator_data: Base64Url,
    signature: Base64Url,
    user_handle: Option<Base64Url>,
}

impl RegistrationCredential {
    /// The registration, and how its authenticator is reached.
    pub(super) fn into_parts(self) -> (Registration, Vec<String>) {
        let plain = |name: &String| {
            (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        };
        let transports = self.response.transports.into_iter().filter(plain).take(MOST_TRANSPORTS).collect();
        let registration = Registration {
            credential_id: self.id.0,
            client_data: self.response.client_data_json.0,
            attestation_object: self.response.attestation_object.0,
        };
        (registration, transports)
    }
}

impl From<AssertionCredential> for Assertion {
    fn from(credential: AssertionCredential) -> Self {
        let response = credential.response;
        Self {
            credential_id: credential.id.0,
            client_data: response.client_data_json.0,
            authenticator_data: response.authenticator_data.0,
            signature: response.signature.0,
            user_handle: response.user_handle.map(|handle| handle.0),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct RelyingPartyEntity {
    id: String,
    name: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::routes) struct UserEntity {
    /// base64url.
    id: String,
    name: String,
    display_name: String,
}

#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct CredentialParameters {
    #[serde(rename = "type")]
    kind: CredentialType,
    /// COSE.
    alg: i32,
}

#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct CredentialDescriptor {
    #[serde(rename = "type")]
    kind: CredentialType,
    /// base64url.
    id: String,
    transports: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::routes) struct AuthenticatorSelection {
    #[schema(value_type = String, example = "required")]
    resident_key: &'static str,
    require_resident_key: bool,
    #[schema(value_type = String, example = "required")]
    user_verification: &'static str,
}

/// `PublicKeyCredentialCreationOptionsJSON`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::routes) struct CreationOptions {
    rp: RelyingPartyEntity,
    user: UserEntity,
    /// base64url.
    challenge: String,
    pub_key_cred_params: Vec<CredentialParameters>,
    /// Milliseconds.
    timeout: i64,
    /// Those that the person has: no authenticator makes a second one.
    exclude_credentials: Vec<CredentialDescriptor>,
    authenticator_selection: AuthenticatorSelection,
    #[schema(value_type = String, example = "none")]
    attestation: &'static str,
}

impl CreationOptions {
    pub(super) fn new(app: &App, user_id: Uuid, username: String, held: &[Passkey], challenge: String) -> Self {
        let kind = CredentialType::PublicKey;
        let parameters = Algorithm::ALL.map(|algorithm| CredentialParameters { kind, alg: algorithm.cose() });
        let described = |passkey: &Passkey| CredentialDescriptor {
            kind,
            id: URL_SAFE_NO_PAD.encode(&passkey.credential_id),
            transports: passkey.transports.clone(),
        };
        Self {
            rp: RelyingPartyEntity { id: app.relying_party.id.clone(), name: app.accounts.name.clone() },
            user: UserEntity {
                id: URL_SAFE_NO_PAD.encode(user_id.as_bytes()),
                display_name: username.clone(),
                name: username,
            },
            challenge,
            pub_key_cred_params: parameters.into(),
            timeout: challenge_life().num_milliseconds(),
            exclude_credentials: held.iter().map(described).collect(),
            authenticator_selection: AuthenticatorSelection {
                resident_key: "required",
                require_resident_key: true,
                user_verification: "required",
            },
            attestation: "none",
        }
    }
}

/// `PublicKeyCredentialRequestOptionsJSON`, the same for everybody: it names no credential.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::routes) struct RequestOptions {
    /// base64url.
    challenge: String,
    /// Milliseconds.
    timeout: i64,
    rp_id: String,
    #[schema(value_type = String, example = "required")]
    user_verification: &'static str,
}

impl RequestOptions {
    pub(in crate::routes) fn new(app: &App, challenge: String) -> Self {
        let timeout = challenge_life().num_milliseconds();
        Self { challenge, timeout, rp_id: app.relying_party.id.clone(), user_verification: "required" }
    }
}
