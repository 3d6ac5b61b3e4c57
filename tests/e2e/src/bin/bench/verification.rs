//! What it costs to verify a token in process, with the question whether it is revoked, against jsonwebtoken alone.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use kronos_common::{
    config::Identity,
    identity::{Claims, JwkSet, Revocation, Revocations, Verifier},
};

/// Rounds alternate, so that both meet the same machine; medians are compared.
const ROUNDS: usize = 9;
/// Others that are revoked, so that the question is asked of maps that hold something.
const REVOKED: usize = 10_000;

/// Verifies `tokens`, all different, each way.
pub(crate) async fn verification(tokens: &[String], keys: &JwkSet) -> anyhow::Result<()> {
    let first = tokens.first().context("no tokens")?;
    let kid = decode_header(first)?.kid.context("a token without kid")?;
    let jwk = keys.keys.iter().find(|key| key["kid"] == kid.as_str()).context("the token's key is not in the set")?;
    let key = DecodingKey::from_ed_components(jwk["x"].as_str().context("a key without x")?)?;
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(first)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&[&claims.iss]);
    validation.set_audience(&claims.aud);
    let identity = Identity {
        issuer: claims.iss.clone(),
        audience: claims.aud.first().context("a token without audience")?.clone(),
        jwks_url: String::new(),
        auth_url: String::new(),
        user_url: String::new(),
        client_id: String::new(),
        client_secret: String::new().into(),
    };
    let revocations = Revocations::none();
    for index in 0..REVOKED {
        revocations.apply(&Revocation::session_now(format!("session-{index}")));
        revocations.apply(&Revocation::Subject { subject: format!("subject-{index}"), epoch: 2 });
    }
    let (mut raw, mut first_seen, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    let each = |begun: Instant| begun.elapsed().as_secs_f64() * 1e6 / tokens.len() as f64;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for token in tokens {
            let good = decode::<Claims>(token, &key, &validation)?;
            ensure!(good.claims.epoch > 0, "no epoch");
        }
        raw.push(each(begun));
        // A new one remembers nothing.
        let verifier = Verifier::with_keys(&identity, keys, revocations.clone());
        for times in [&mut first_seen, &mut seen] {
            let begun = Instant::now();
            for token in tokens {
                let good = verifier.verify(token).await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
                ensure!(good.epoch > 0, "no epoch");
            }
            times.push(each(begun));
        }
    }
    let (raw, first_seen, seen) = (Spread::of(raw), Spread::of(first_seen), Spread::of(seen));
    println!("Verification in process, {} tokens, {ROUNDS} alternating rounds; µs for each:", tokens.len());
    println!("  jsonwebtoken alone              {raw}");
    let ratio = raw.median / first_seen.median;
    println!("  Kronos, first seen              {first_seen}   {ratio:.2} × as fast (at least 0.85 wanted)");
    println!(
        "  Kronos, seen before             {seen}   {:.1} × as fast (at least 20 wanted)",
        raw.median / seen.median
    );
    Ok(())
}

/// A median, and what it lies between.
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self { median: at(values.len() / 2), least: at(0), most: at(values.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median < 100.0 { 2 } else { 0 };
        write!(f, "{:>7.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}
