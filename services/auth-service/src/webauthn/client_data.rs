//! What the browser says of a ceremony (section 5.8.1): which one, for whose challenge, on which page.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Refusal, RelyingParty};

const LONGEST: usize = 4096;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceremony {
    Create,
    Get,
}

/// Client data of one of our pages. The challenge is the browser's word until the caller has judged it.
#[derive(Debug)]
pub struct ClientData {
    pub challenge: Vec<u8>,
    pub(super) ceremony: Ceremony,
    /// What authenticators sign.
    pub(super) hash: [u8; 32],
}

/// Members that later versions add are nobody's concern (section 5.8.1.2).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Collected {
    #[serde(rename = "type")]
    kind: String,
    challenge: String,
    origin: String,
    #[serde(default)]
    cross_origin: bool,
    top_origin: Option<String>,
}

impl RelyingParty {
    /// Reads client data.
    ///
    /// # Errors
    /// It is of another ceremony, of a page of somebody else's, or of one inside of another's.
    pub fn client_data(&self, ceremony: Ceremony, json: &[u8]) -> Result<ClientData, Refusal> {
        let wrong = |what| Err(Refusal::ClientData(what));
        if json.len() > LONGEST {
            return wrong("too long");
        }
        let Ok(collected) = serde_json::from_slice::<Collected>(json) else { return wrong("not of that form") };
        let kind = match ceremony {
            Ceremony::Create => "webauthn.create",
            Ceremony::Get => "webauthn.get",
        };
        if collected.kind != kind {
            return wrong("of another ceremony");
        }
        if !self.origins.contains(&collected.origin) {
            return wrong("of another origin");
        }
        if collected.cross_origin || collected.top_origin.is_some() {
            return wrong("of a frame in another's page");
        }
        let Ok(challenge) = URL_SAFE_NO_PAD.decode(&collected.challenge) else { return wrong("no challenge") };
        Ok(ClientData { challenge, ceremony, hash: Sha256::digest(json).into() })
    }
}
