//! Second factors: their kinds, and how a login names them to others (RFC 8176). Their secrets and rules are in `totp`,
//! `codes` and `webauthn`.

use serde::Serialize;
use utoipa::ToSchema;

use crate::webauthn::Assertion;

/// A kind of second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Totp,
    RecoveryCode,
    Passkey,
}

impl Kind {
    /// The member of a login's body that carries it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::RecoveryCode => "recoveryCode",
            Self::Passkey => "passkey",
        }
    }
}

/// What somebody shows beside the password.
#[derive(Debug, Clone)]
pub enum Proof {
    Totp(String),
    RecoveryCode(String),
    Passkey(Box<PasskeyProof>),
}

/// An authenticator's answer, and what the challenge must have been for.
#[derive(Debug, Clone)]
pub struct PasskeyProof {
    pub assertion: Assertion,
    pub purpose: Vec<u8>,
}

impl Proof {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Totp(_) => Kind::Totp,
            Self::RecoveryCode(_) => Kind::RecoveryCode,
            Self::Passkey(_) => Kind::Passkey,
        }
    }
}

/// The methods of a login with a password and perhaps a second factor (RFC 8176 section 2).
pub fn password_amr(second: Option<&'static str>) -> Vec<&'static str> {
    match second {
        None => vec!["pwd"],
        Some(amr) => vec!["pwd", amr, "mfa"],
    }
}
