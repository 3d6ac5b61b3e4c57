//! Proofs that whoever shows a token holds the key that it is bound to (RFC 9449). What is checked here needs no store; that a
//! proof comes once only is for the caller to remember.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::jose::{Jws, PublicJwk};

/// A proof may be so old, in seconds; for so long its id is remembered.
pub const PROOF_LIFE_SECONDS: i64 = 60;
/// How far a client's clock may be ahead, in seconds.
const LEEWAY_SECONDS: i64 = 5;
const LONGEST_ID: usize = 256;
/// The algorithms of proofs, as metadata and challenges name them.
pub const PROOF_ALGORITHMS: [&str; 3] = ["ES256", "EdDSA", "RS256"];

/// A good proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Thumbprint of the key.
    pub jkt: String,
    /// The proof's own id: a second proof of this key and id is a replay.
    pub jti: String,
}

impl Proof {
    /// Checks a proof for a request of this method to this address. `access_token` is the one that it comes with, if any.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn check(
        text: &str,
        method: &str,
        address: &str,
        access_token: Option<&str>,
        now: i64,
    ) -> Result<Self, &'static str> {
        let jws = Jws::parse(text).ok_or("the proof is no JWT")?;
        let header = |name: &str| jws.header.get(name).and_then(Value::as_str);
        if header("typ") != Some("dpop+jwt") {
            return Err("the proof's typ is not dpop+jwt");
        }
        let jwk = jws.header.get("jwk").and_then(PublicJwk::read);
        let jwk = jwk.ok_or("the proof's jwk is not a public key of P-256, Ed25519 or RSA")?;
        if !jwk.signed(&jws) {
            return Err("the proof's signature is wrong");
        }
        if jws.text("htm") != Some(method) {
            return Err("the proof is for another method");
        }
        if !jws.text("htu").is_some_and(|claimed| is_same_address(claimed, address)) {
            return Err("the proof is for another address");
        }
        let issued = jws.seconds("iat").ok_or("the proof has no iat")?;
        if issued < now.saturating_sub(PROOF_LIFE_SECONDS) || issued > now.saturating_add(LEEWAY_SECONDS) {
            return Err("the proof is too old, or from the future");
        }
        let jti = jws.text("jti").filter(|jti| (1..=LONGEST_ID).contains(&jti.len()));
        let jti = jti.ok_or("the proof has no jti")?.to_owned();
        if let Some(token) = access_token {
            let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(token));
            if jws.text("ath") != Some(hash.as_str()) {
                return Err("the proof is for another access token");
            }
        }
        Ok(Self { jkt: jwk.thumbprint, jti })
    }

    /// What to remember of it: a hash of key and id.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::new().chain_update(&self.jkt).chain_update([0]).chain_update(&self.jti).finalize().into()
    }
}

/// Scheme, host, port and path; query and fragment do not count (RFC 9449 section 4.3).
fn is_same_address(claimed: &str, address: &str) -> bool {
    let parts = |text: &str| {
        let url = Url::parse(text).ok()?;
        Some((url.scheme().to_owned(), url.host_str()?.to_owned(), url.port_or_known_default(), url.path().to_owned()))
    };
    parts(claimed).is_some_and(|claimed| Some(claimed) == parts(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9449 section 4.1: the proof of the token request, and section 7.1: the one that comes with an access token.
    const FOR_TOKEN: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";
    const WITH_TOKEN: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    /// RFC 9449 section 6.1.
    const THUMBPRINT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

    #[test]
    fn rfc_9449_examples() {
        let token_endpoint = "https://server.example.com/token";
        let proof = Proof::check(FOR_TOKEN, "POST", token_endpoint, None, 1_562_262_620).expect("good");
        assert_eq!(proof, Proof { jkt: THUMBPRINT.into(), jti: "-BwC3ESc6acc2lTc".into() });
        let resource = "https://resource.example.org/protectedresource";
        let proof = Proof::check(WITH_TOKEN, "GET", resource, Some(TOKEN), 1_562_262_620).expect("good");
        assert_eq!(proof.jkt, THUMBPRINT);
        for (method, address, token, now) in [
            ("POST", resource, Some(TOKEN), 1_562_262_620),
            ("GET", token_endpoint, Some(TOKEN), 1_562_262_620),
            ("GET", resource, Some("another"), 1_562_262_620),
            ("GET", resource, Some(TOKEN), 1_562_262_618 + PROOF_LIFE_SECONDS + 1),
            ("GET", resource, Some(TOKEN), 1_562_262_618 - LEEWAY_SECONDS - 1),
        ] {
            assert!(Proof::check(WITH_TOKEN, method, address, token, now).is_err(), "{method} {address} {now}");
        }
        assert!(Proof::check(FOR_TOKEN, "POST", resource, Some(TOKEN), 1_562_262_620).is_err(), "no ath");
    }

    #[test]
    fn an_address_is_compared_without_query_and_in_its_plain_form() {
        for (claimed, same) in [
            ("https://k.example/a", true),
            ("HTTPS://K.example:443/a?x=1#y", true),
            ("https://k.example/a/", false),
            ("https://k.example/b/../a", true),
            ("http://k.example/a", false),
            ("https://k.example:8443/a", false),
            ("https://k.example@evil.example/a", false),
            ("/a", false),
        ] {
            assert_eq!(is_same_address(claimed, "https://k.example/a"), same, "{claimed}");
        }
    }
}
