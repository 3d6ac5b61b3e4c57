//! Passwords: what one must be like, and argon2id over it. Pure computation, slow on purpose: only `hashing`'s threads call it.

use anyhow::Context as _;
use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use kronos_common::problem::FieldError;
use subtle::ConstantTimeEq as _;

use crate::config;

/// Longest password, in bytes: argon2 takes any length, the rest of the way should not have to.
pub const MAX_BYTES: usize = 1024;
const OUTPUT_BYTES: usize = 32;
/// Used by the dummy hash; it is no password's.
const DUMMY_PASSWORD: &[u8] = b"nobody has this password";

/// What is wrong with a new password, if anything. `inputs`: what an attacker tries first, such as the name.
pub fn check_strength(
    pointer: &str,
    password: &str,
    min_length: usize,
    min_score: u8,
    inputs: &[&str],
) -> Option<FieldError> {
    if password.chars().count() < min_length {
        let detail = format!("at least {min_length} characters");
        Some(FieldError::new(pointer, "too_short", detail))
    } else if password.len() > MAX_BYTES {
        Some(FieldError::new(pointer, "too_long", format!("at most {MAX_BYTES} bytes")))
    } else {
        let estimate = zxcvbn::zxcvbn(password, inputs);
        if u8::from(estimate.score()) >= min_score {
            return None;
        }
        let mut detail = String::from("too easy to guess");
        if let Some(feedback) = estimate.feedback() {
            for advice in feedback
                .warning()
                .iter()
                .map(ToString::to_string)
                .chain(feedback.suggestions().iter().map(ToString::to_string))
            {
                detail.push_str(". ");
                detail.push_str(advice.trim_end_matches('.'));
            }
        }
        Some(FieldError::new(pointer, "too_weak", detail))
    }
}

/// Argon2id with the configured parameters and memory of its own, which it takes at its first hash and uses again and again.
pub struct Hasher {
    params: Params,
    memory: Vec<Block>,
}

impl Hasher {
    /// A hasher.
    ///
    /// # Errors
    /// Parameters that argon2 does not allow.
    pub fn new(config: &config::Passwords) -> anyhow::Result<Self> {
        let params = Params::new(config.memory_kib, config.iterations, config.parallelism, Some(OUTPUT_BYTES))
            .map_err(|error| anyhow::anyhow!("configuration section `passwords`: {error}"))?;
        Ok(Self { memory: Vec::new(), params })
    }

    /// A PHC string with a new random salt.
    ///
    /// # Errors
    /// Never with parameters that [`Hasher::new`] took.
    pub fn hash(&mut self, password: &[u8]) -> anyhow::Result<String> {
        let salt = Salt::generate();
        let params = self.params.clone();
        let output = self.run(&params, password, &salt, OUTPUT_BYTES)?;
        let phc = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).map_err(|error| anyhow::anyhow!("write parameters: {error}"))?,
            salt: Some(salt),
            hash: Some(Output::new(&output).map_err(|error| anyhow::anyhow!("write hash: {error}"))?),
        };
        Ok(phc.to_string())
    }

    /// Whether the PHC string is this password's; takes the same time whatever the answer.
    ///
    /// # Errors
    /// A string that is no argon2id hash.
    pub fn verify(&mut self, password: &[u8], phc: &str) -> anyhow::Result<bool> {
        let phc = PasswordHash::new(phc).map_err(|error| anyhow::anyhow!("read PHC string: {error}"))?;
        anyhow::ensure!(phc.algorithm == Algorithm::Argon2id.ident(), "the stored hash is not argon2id");
        let params = Params::try_from(&phc).map_err(|error| anyhow::anyhow!("read PHC parameters: {error}"))?;
        let salt = phc.salt.context("the stored hash has no salt")?;
        let expected = phc.hash.context("the stored hash is empty")?;
        let found = self.run(&params, password, &salt, expected.len())?;
        Ok(found.ct_eq(expected.as_bytes()).into())
    }

    /// Whether the PHC string was made with other parameters than those configured now.
    pub fn is_outdated(&self, phc: &str) -> bool {
        let Ok(phc) = PasswordHash::new(phc) else { return true };
        let Ok(params) = Params::try_from(&phc) else {
            return true;
        };
        (params.m_cost(), params.t_cost(), params.p_cost())
            != (self.params.m_cost(), self.params.t_cost(), self.params.p_cost())
    }

    /// A hash that no password of the world's can be asked against, as costly as a real one.
    ///
    /// # Errors
    /// As [`Hasher::hash`].
    pub fn dummy(&mut self) -> anyhow::Result<String> {
        self.hash(DUMMY_PASSWORD)
    }

    fn run(&mut self, params: &Params, password: &[u8], salt: &[u8], length: usize) -> anyhow::Result<Vec<u8>> {
        let blocks = params.block_count();
        if self.memory.len() < blocks {
            self.memory.resize(blocks, Block::default());
        }
        let mut output = vec![0; length];
        let memory = self.memory.get_mut(..blocks).context("memory was just made long enough")?;
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
            .hash_password_into_with_memory(password, salt, &mut output, memory)
            .map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
        Ok(output)
    }
}
