//! Public keys of credentials (RFC 9053, RFC 8812): the three algorithms that authenticators have. A key is for one algorithm,
//! and nothing that comes with a signature can choose another.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    VerificationAlgorithm,
};

use super::{Refusal, cbor::Value};

const KTY: i64 = 1;
const ALG: i64 = 3;
/// The curve; of RSA, the modulus.
const CRV_OR_N: i64 = -1;
/// The coordinate; of RSA, the exponent.
const X_OR_E: i64 = -2;
const Y: i64 = -3;
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Es256,
    EdDsa,
    Rs256,
}

impl Algorithm {
    /// In the order in which an authenticator should prefer them.
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// Its number (IANA COSE algorithms).
    pub const fn cose(self) -> i32 {
        match self {
            Self::Es256 => -7,
            Self::EdDsa => -8,
            Self::Rs256 => -257,
        }
    }

    /// The algorithm of that number.
    pub fn of(cose: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| i64::from(known.cose()) == cose)
    }

    fn verifier(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Es256 => &ECDSA_P256_SHA256_ASN1,
            Self::EdDsa => &ED25519,
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub algorithm: Algorithm,
    /// ES256: the uncompressed point; EdDSA: the 32 bytes; RS256: a `SubjectPublicKeyInfo` in DER.
    pub bytes: Vec<u8>,
}

impl PublicKey {
    /// Reads a `COSE_Key` with the members of its algorithm, and no other (section 5.8.5).
    ///
    /// # Errors
    /// Another algorithm, kind or curve; a point that is not on the curve; RSA of less than 2048 or more than 8192 bits.
    pub(super) fn read(key: &Value<'_>) -> Result<Self, Refusal> {
        let wrong = Refusal::PublicKey;
        let number = |label: i64| key.get(label).and_then(Value::integer);
        let bytes = |label: i64| key.get(label).and_then(Value::bytes);
        let coordinate = |label: i64| bytes(label).filter(|bytes| bytes.len() == 32);
        let algorithm = number(ALG).and_then(Algorithm::of).ok_or(wrong("no algorithm that was asked for"))?;
        let (members, read) = match (algorithm, number(KTY)) {
            (Algorithm::Es256, Some(2)) if number(CRV_OR_N) == Some(1) => {
                let point = coordinate(X_OR_E).zip(coordinate(Y)).map(|(x, y)| [&[4], x, y].concat());
                (5, point)
            }
            (Algorithm::EdDsa, Some(1)) if number(CRV_OR_N) == Some(6) => (4, coordinate(X_OR_E).map(<[u8]>::to_vec)),
            (Algorithm::Rs256, Some(3)) => {
                let modulus = bytes(CRV_OR_N).filter(|n| RSA_BYTES.contains(&n.len()));
                let rsa = modulus
                    .zip(bytes(X_OR_E))
                    .and_then(|(n, e)| Some(RsaPublicKeyComponents { n, e }.as_der().ok()?.as_ref().to_vec()));
                (4, rsa)
            }
            _ => return Err(wrong("another kind of key than its algorithm's")),
        };
        let bytes = read.ok_or(wrong("its parameters"))?;
        if key.map().map(<[_]>::len) != Some(members) {
            return Err(wrong("other parameters"));
        }
        ParsedPublicKey::new(algorithm.verifier(), &bytes).map_err(|_| wrong("no such key can be"))?;
        Ok(Self { algorithm, bytes })
    }

    /// Whether it signed this, with its algorithm.
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        ParsedPublicKey::new(self.algorithm.verifier(), &self.bytes)
            .is_ok_and(|key| key.verify_sig(message, signature).is_ok())
    }
}
