//! DPoP proofs at this service's own endpoints (RFC 9449 section 5): checked, and good once for all instances.

use chrono::Utc;
use kronos_common::{
    identity::dpop::{PROOF_LIFE_SECONDS, Proof},
    problem::Problem,
};

use crate::App;

/// The thumbprint of the key that a request to `path` proved, if it brought a proof.
///
/// # Errors
/// 400 `invalid_dpop_proof`.
pub(crate) async fn proved_key(
    app: &App,
    proofs: &[&str],
    method: &str,
    path: &str,
) -> Result<Option<String>, Problem> {
    let text = match proofs {
        [] => return Ok(None),
        [text] => text,
        _ => return Err(invalid("send one header `DPoP`")),
    };
    let address = format!("{}{path}", app.issuer_url);
    let proof = Proof::check(text, method, &address, None, Utc::now().timestamp()).map_err(invalid)?;
    if !app.replay.is_first("dpop", &proof.fingerprint(), 2 * PROOF_LIFE_SECONDS).await {
        return Err(invalid("the proof was used before: make one for each request"));
    }
    Ok(Some(proof.jkt))
}

fn invalid(detail: &'static str) -> Problem {
    Problem::bad_request("invalid_dpop_proof", detail)
}
