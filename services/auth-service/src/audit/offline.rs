//! Checks an exported record without the service, its database or the network: every byte of every line is what was hashed,
//! each entry follows from the one before, and the end is where a signed checkpoint says. The keys come from elsewhere than
//! the file, and so do checkpoints that somebody kept: only they show that a whole end was cut off together with its
//! checkpoint.

use std::{io::BufRead, path::Path};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat};
use kronos_common::identity::JwkSet;
use serde::{Deserialize, de::DeserializeOwned};

use super::{AuditEntry, CHECKPOINT_TYPE, Checkpoint, CheckpointLine, is_whole};

/// Longest line that is read, in bytes.
const LONGEST_LINE: u64 = 1024 * 1024;
const HASH_BYTES: usize = 32;

/// What was found in an unharmed record.
#[derive(Debug, PartialEq)]
pub struct Report {
    pub entries: u64,
    /// The last checkpoint of the file.
    pub end: Checkpoint,
    /// How many kept checkpoints were found in it.
    pub kept: usize,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// Checks exports, one after the other: the first begins with the first entry, each other where the one before ended. `kept`
/// are checkpoints in compact form that were kept elsewhere.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn verify(files: Vec<Box<dyn BufRead>>, keys: &JwkSet, kept: &[String]) -> anyhow::Result<Report> {
    let mut kept = kept
        .iter()
        .map(|token| open(token, keys).context("a kept checkpoint"))
        .collect::<anyhow::Result<Vec<Checkpoint>>>()?;
    let asked = kept.len();
    let mut chain = Chain { sequence: 0, hash: vec![0; HASH_BYTES], entries: 0 };
    kept.retain(|checkpoint| !chain.is_at(checkpoint));
    let mut end = None;
    for mut file in files {
        end = None;
        let mut number = 0;
        while let Some(line) = read_line(&mut *file).with_context(|| format!("line {}", number + 1))? {
            number += 1;
            ensure!(end.is_none(), "line {number}: an export ends with its checkpoint, and here is more");
            end = chain.take(&line, keys).with_context(|| format!("line {number}"))?;
            for checkpoint in &kept {
                ensure!(
                    checkpoint.sequence != chain.sequence || chain.is_at(checkpoint),
                    "line {number}: entry {} is not the one of the kept checkpoint",
                    chain.sequence
                );
            }
            kept.retain(|checkpoint| !chain.is_at(checkpoint));
        }
        ensure!(end.is_some(), "an export ends with a checkpoint, and this one does not: its end is missing");
    }
    let end = end.context("there is no export")?;
    if let Some(lost) = kept.first() {
        bail!(
            "a kept checkpoint is at entry {}, and the record ends at {}: its end is missing",
            lost.sequence,
            chain.sequence
        );
    }
    Ok(Report { entries: chain.entries, end, kept: asked })
}

struct Chain {
    sequence: i64,
    hash: Vec<u8>,
    entries: u64,
}

impl Chain {
    fn is_at(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.sequence == self.sequence && checkpoint.hash == hex::encode(&self.hash)
    }

    /// Takes a line; a checkpoint is given back.
    fn take(&mut self, line: &str, keys: &JwkSet) -> anyhow::Result<Option<Checkpoint>> {
        if line.starts_with("{\"checkpoint\"") {
            let CheckpointLine { checkpoint } = exact(line)?;
            let checkpoint = open(&checkpoint, keys)?;
            ensure!(
                self.is_at(&checkpoint),
                "the checkpoint is at entry {}, and the record ends at {}, or with another entry",
                checkpoint.sequence,
                self.sequence
            );
            return Ok(Some(checkpoint));
        }
        let entry: AuditEntry = exact(line)?;
        ensure!(
            self.sequence.checked_add(1) == Some(entry.sequence),
            "entry {} stands where entry {} should be",
            entry.sequence,
            self.sequence.saturating_add(1)
        );
        ensure!(entry.prev_hash == self.hash, "entry {} does not follow from the one before", entry.sequence);
        ensure!(is_whole(&entry), "entry {} is not what was recorded", entry.sequence);
        self.sequence = entry.sequence;
        self.hash = entry.hash;
        self.entries += 1;
        Ok(None)
    }
}

/// A value that is written as we write it: nothing in the line is left unread.
fn exact<T: DeserializeOwned + serde::Serialize>(line: &str) -> anyhow::Result<T> {
    let value: T = serde_json::from_str(line).context("this is no line of an export")?;
    ensure!(serde_json::to_string(&value)? == line, "the line is written otherwise than an export is");
    Ok(value)
}

fn read_line(file: &mut dyn BufRead) -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    let mut limited = std::io::Read::take(file, LONGEST_LINE);
    if limited.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    ensure!(line.pop() == Some(b'\n'), "the line breaks off");
    String::from_utf8(line).context("not UTF-8").map(Some)
}

/// The checkpoint of a JWS in compact form (RFC 7515), by a key of the set.
fn open(token: &str, keys: &JwkSet) -> anyhow::Result<Checkpoint> {
    let (message, signature) = token.rsplit_once('.').context("a checkpoint has three parts")?;
    let (header, payload) = message.split_once('.').context("a checkpoint has three parts")?;
    let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header)?).context("read its header")?;
    ensure!(header.alg == "EdDSA" && header.typ == CHECKPOINT_TYPE, "this is no checkpoint");
    let key = keys.keys.iter().find(|key| key["kid"] == header.kid && key["kty"] == "OKP" && key["crv"] == "Ed25519");
    let key =
        key.with_context(|| format!("the checkpoint is signed with {}, which is not among the keys", header.kid))?;
    let key = URL_SAFE_NO_PAD.decode(key["x"].as_str().context("a key without x")?)?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature)?)
        .map_err(|_| anyhow::anyhow!("the checkpoint's signature is not that key's"))?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?).context("read the checkpoint")
}

/// `auth-service audit-verify`: reads the files, and says what it found.
///
/// # Errors
/// As [`verify`]; a file that cannot be read.
pub fn run(files: &[&Path], keys: &Path, kept: &[&Path]) -> anyhow::Result<String> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let keys: JwkSet = serde_json::from_slice(&read(keys)?).with_context(|| format!("read {}", keys.display()))?;
    let kept = kept.iter().map(|path| {
        let kept: CheckpointLine = serde_json::from_slice(&read(path)?)
            .with_context(|| format!("{} is no answer of /auth/audit/checkpoint", path.display()))?;
        Ok(kept.checkpoint)
    });
    let kept = kept.collect::<anyhow::Result<Vec<_>>>()?;
    let files = files.iter().map(|path| {
        let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Box::new(std::io::BufReader::new(file)) as Box<dyn BufRead>)
    });
    let report = verify(files.collect::<anyhow::Result<_>>()?, &keys, &kept)?;
    let signed = DateTime::from_timestamp(report.end.iat, 0).unwrap_or_default();
    Ok(format!(
        "unharmed: {} entries, up to entry {} as {} signed it at {}; {} kept checkpoints are in it",
        report.entries,
        report.end.sequence,
        report.end.iss,
        signed.to_rfc3339_opts(SecondsFormat::Secs, true),
        report.kept
    ))
}
