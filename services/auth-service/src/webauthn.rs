//! The relying party's part of WebAuthn Level 3 (W3C): what a browser and an authenticator send is read, judged, and reduced
//! to a public key or to the word that its holder is here. No store, no clock, no axum; whose challenge it was is the caller's
//! question.

mod authenticator_data;
pub mod cbor;
mod client_data;
mod cose;

use sha2::{Digest as _, Sha256};

use self::{authenticator_data::AuthenticatorData, cbor::Value};
pub use self::{
    client_data::{Ceremony, ClientData},
    cose::{Algorithm, PublicKey},
};

/// A credential's name has at most so many bytes (section 5.8.3 lets one be that long).
pub const LONGEST_CREDENTIAL_ID: usize = 1023;
/// An attestation object is read up to this many bytes: certificates may be in it.
const LONGEST_ATTESTATION: usize = 32 * 1024;

/// Why something is refused. For logs and tests: who sent it is told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the client data are not as they should be: {0}")]
    ClientData(&'static str),
    #[error("the authenticator data are not as they should be: {0}")]
    AuthenticatorData(&'static str),
    #[error("the public key is not as it should be: {0}")]
    PublicKey(&'static str),
    #[error("the attestation is not as it should be: {0}")]
    Attestation(&'static str),
    #[error("nobody was there (UP)")]
    NoPresence,
    #[error("the person was not verified (UV)")]
    NotVerified,
    #[error("the signature is not the key's")]
    Signature,
}

impl From<cbor::Malformed> for Refusal {
    fn from(_: cbor::Malformed) -> Self {
        Self::Attestation("malformed CBOR")
    }
}

/// Who asks: the domain that credentials belong to, and the origins of the pages that may use them.
#[derive(Debug, Clone)]
pub struct RelyingParty {
    pub id: String,
    pub origins: Vec<String>,
}

/// What `navigator.credentials.create()` brought.
#[derive(Debug, Clone)]
pub struct Registration {
    pub credential_id: Vec<u8>,
    pub client_data: Vec<u8>,
    pub attestation_object: Vec<u8>,
}

/// What `navigator.credentials.get()` brought.
#[derive(Debug, Clone)]
pub struct Assertion {
    pub credential_id: Vec<u8>,
    pub client_data: Vec<u8>,
    pub authenticator_data: Vec<u8>,
    pub signature: Vec<u8>,
    /// The user that the authenticator keeps beside the key.
    pub user_handle: Option<Vec<u8>>,
}

/// A credential to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCredential {
    pub id: Vec<u8>,
    pub key: PublicKey,
    pub sign_count: u32,
    /// It may be copied to other devices of its owner.
    pub backup_eligible: bool,
    pub backed_up: bool,
}

/// What a use of a credential says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    pub user_verified: bool,
    pub sign_count: u32,
    pub backup_eligible: bool,
    pub backed_up: bool,
}

impl RelyingParty {
    /// Section 7.1, without the questions of challenge, user and known credentials. Of attestations, a self attestation is
    /// verified, and no other is asked for or looked at.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn register(
        &self,
        client_data: &ClientData,
        registration: &Registration,
        must_verify: bool,
    ) -> Result<NewCredential, Refusal> {
        if client_data.ceremony != Ceremony::Create {
            return Err(Refusal::ClientData("of another ceremony"));
        }
        if registration.attestation_object.len() > LONGEST_ATTESTATION {
            return Err(Refusal::Attestation("too long"));
        }
        let object = cbor::read_all(&registration.attestation_object)?;
        let bytes = object.get("authData").and_then(Value::bytes).ok_or(Refusal::Attestation("no authData"))?;
        let data = AuthenticatorData::read(bytes)?;
        self.must_be_here(&data, must_verify)?;
        let attested = data.attested.ok_or(Refusal::AuthenticatorData("no credential"))?;
        if attested.credential_id != registration.credential_id {
            return Err(Refusal::AuthenticatorData("another credential"));
        }
        let key = PublicKey::read(&attested.key)?;
        let format = object.get("fmt").and_then(Value::text).ok_or(Refusal::Attestation("no fmt"))?;
        let statement = object.get("attStmt").ok_or(Refusal::Attestation("no attStmt"))?;
        check_attestation(format, statement, &key, &[bytes, &client_data.hash].concat())?;
        Ok(NewCredential {
            id: registration.credential_id.clone(),
            key,
            sign_count: data.sign_count,
            backup_eligible: data.backup_eligible,
            backed_up: data.backed_up,
        })
    }

    /// Section 7.2, without the questions of challenge, user and counter.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn authenticate(
        &self,
        client_data: &ClientData,
        assertion: &Assertion,
        key: &PublicKey,
        must_verify: bool,
    ) -> Result<Used, Refusal> {
        if client_data.ceremony != Ceremony::Get {
            return Err(Refusal::ClientData("of another ceremony"));
        }
        let data = AuthenticatorData::read(&assertion.authenticator_data)?;
        if data.attested.is_some() {
            return Err(Refusal::AuthenticatorData("a credential in an assertion"));
        }
        self.must_be_here(&data, must_verify)?;
        let signed = [assertion.authenticator_data.as_slice(), &client_data.hash].concat();
        if !key.signed(&signed, &assertion.signature) {
            return Err(Refusal::Signature);
        }
        Ok(Used {
            user_verified: data.user_verified,
            sign_count: data.sign_count,
            backup_eligible: data.backup_eligible,
            backed_up: data.backed_up,
        })
    }

    fn must_be_here(&self, data: &AuthenticatorData<'_>, must_verify: bool) -> Result<(), Refusal> {
        if data.rp_id_hash != Sha256::digest(&self.id).as_slice() {
            return Err(Refusal::AuthenticatorData("another relying party"));
        }
        if !data.user_present {
            return Err(Refusal::NoPresence);
        }
        if must_verify && !data.user_verified {
            return Err(Refusal::NotVerified);
        }
        Ok(())
    }
}

fn check_attestation(format: &str, statement: &Value<'_>, key: &PublicKey, signed: &[u8]) -> Result<(), Refusal> {
    let members = statement.map().ok_or(Refusal::Attestation("attStmt is no map"))?;
    match format {
        "none" if !members.is_empty() => Err(Refusal::Attestation("none, and yet a statement")),
        "packed" if statement.get("x5c").is_none() => {
            let algorithm = statement.get("alg").and_then(Value::integer);
            let signature = statement.get("sig").and_then(Value::bytes);
            match (algorithm, signature) {
                (Some(algorithm), Some(signature)) if algorithm == i64::from(key.algorithm.cose()) => {
                    if key.signed(signed, signature) { Ok(()) } else { Err(Refusal::Signature) }
                }
                _ => Err(Refusal::Attestation("not a self attestation of this key")),
            }
        }
        // A maker's statement, which nobody asked for: worth as much as none.
        _ => Ok(()),
    }
}
