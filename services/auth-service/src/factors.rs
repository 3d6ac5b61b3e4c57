//! Second factors: their kinds, and how a login names them to others (RFC 8176). Their secrets and rules are in `totp`,
//! `recovery` and `webauthn`.

use serde::Serialize;
use utoipa::ToSchema;

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

    /// The `amr` value (RFC 8176 section 2).
    pub fn amr(self) -> &'static str {
        match self {
            Self::Totp => "otp",
            // A list on paper: something known, as RFC 8176 has it.
            Self::RecoveryCode => "kba",
            Self::Passkey => "hwk",
        }
    }
}

/// What somebody shows beside the password.
#[derive(Debug, Clone)]
pub enum Proof {
    Totp(String),
    RecoveryCode(String),
}

impl Proof {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Totp(_) => Kind::Totp,
            Self::RecoveryCode(_) => Kind::RecoveryCode,
        }
    }
}

/// The methods of a login with a password and perhaps a second factor.
pub fn password_amr(second: Option<Kind>) -> Vec<&'static str> {
    match second {
        None => vec!["pwd"],
        Some(kind) => vec!["pwd", kind.amr(), "mfa"],
    }
}
