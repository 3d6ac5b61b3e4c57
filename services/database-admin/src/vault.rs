//! The form of a backup on disk. Sealed: a head, then frames, each at most 64 KiB of the dump, sealed on its own and
//! bound to this backup, to its place, and to being the last one or not; so nothing can be changed, reordered, swapped
//! with another backup's, or cut off at the end. Unsealed: the dump as it is. No process and no database here.

use std::io::{self, Read, Write};

use kronos_common::seal::Keyring;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Begins a sealed file, format 1.
const MAGIC: &[u8; 8] = b"KRNSBK1\n";
/// How much of the dump goes into one frame, in bytes.
pub const CHUNK: usize = 64 * 1024;
/// Longest frame, in bytes: a chunk, and what sealing adds to it.
const MAX_FRAME: usize = CHUNK + 4096;

/// Writes one backup. `finish` must be called, or the file does not open.
pub struct Writer<W> {
    out: W,
    id: Uuid,
    keyring: Option<std::sync::Arc<Keyring>>,
    hash: Sha256,
    bytes: u64,
    frame: u64,
    pending: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file; sealed if there is a keyring.
    ///
    /// # Errors
    /// What `out` says.
    pub fn new(out: W, id: Uuid, keyring: Option<std::sync::Arc<Keyring>>) -> io::Result<Self> {
        let sealed = keyring.is_some();
        let mut writer =
            Self { out, id, keyring, hash: Sha256::new(), bytes: 0, frame: 0, pending: Vec::with_capacity(CHUNK) };
        if sealed {
            writer.emit(MAGIC)?;
            writer.emit(id.as_bytes())?;
        }
        Ok(writer)
    }

    /// Takes more of the dump.
    ///
    /// # Errors
    /// What `out` says.
    pub fn push(&mut self, mut dump: &[u8]) -> io::Result<()> {
        if self.keyring.is_none() {
            return self.emit(dump);
        }
        while !dump.is_empty() {
            if self.pending.len() == CHUNK {
                self.frame(false)?;
            }
            let (now, later) = dump.split_at(dump.len().min(CHUNK - self.pending.len()));
            self.pending.extend_from_slice(now);
            dump = later;
        }
        Ok(())
    }

    /// Ends the file: its writer, its length in bytes and its SHA-256 in hex.
    ///
    /// # Errors
    /// What `out` says.
    pub fn finish(mut self) -> io::Result<(W, u64, String)> {
        if self.keyring.is_some() {
            self.frame(true)?;
        }
        self.out.flush()?;
        Ok((self.out, self.bytes, hex::encode(self.hash.finalize())))
    }

    /// How long the file is so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn frame(&mut self, last: bool) -> io::Result<()> {
        let keyring = self.keyring.clone().expect("only sealed files have frames");
        let sealed = keyring.seal(&self.pending, &bound(self.id, self.frame, last));
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.emit(&length.to_be_bytes())?;
        self.emit(&sealed)?;
        self.frame += 1;
        self.pending.clear();
        Ok(())
    }

    fn emit(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// What a frame is bound to.
fn bound(id: Uuid, frame: u64, last: bool) -> Vec<u8> {
    let mut aad = b"kronos-backup-1:".to_vec();
    aad.extend_from_slice(id.as_bytes());
    aad.extend_from_slice(&frame.to_be_bytes());
    aad.push(u8::from(last));
    aad
}

/// Writes the dump that a file holds to `out`. What was written is the dump only if this returns well: a file that was
/// cut off shows only at its end.
///
/// # Errors
/// Not a backup, changed, cut off, or sealed under a key that is not configured.
pub fn open(mut file: impl Read, keyring: Option<&Keyring>, mut out: impl Write) -> anyhow::Result<()> {
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if &magic != MAGIC {
        anyhow::ensure!(magic.starts_with(b"PGDMP"), "this is no backup of Kronos");
        out.write_all(&magic)?;
        io::copy(&mut file, &mut out)?;
        return Ok(out.flush()?);
    }
    let keyring = keyring.ok_or_else(|| anyhow::anyhow!("this backup is sealed: configure its key in [sealing]"))?;
    let mut id = [0; 16];
    file.read_exact(&mut id)?;
    let id = Uuid::from_bytes(id);
    let mut next = read_frame(&mut file)?;
    let mut number = 0;
    while let Some(frame) = next {
        next = read_frame(&mut file)?;
        let aad = bound(id, number, next.is_none());
        let dump = keyring.open(&frame, &aad).map_err(|error| {
            anyhow::anyhow!("frame {number} does not open, the file is damaged or cut off: {error}")
        })?;
        out.write_all(&dump)?;
        number += 1;
    }
    anyhow::ensure!(number > 0, "the file is cut off");
    Ok(out.flush()?)
}

fn read_frame(file: &mut impl Read) -> anyhow::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if file.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    file.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length) as usize;
    anyhow::ensure!(length <= MAX_FRAME, "a frame is too long, the file is damaged");
    let mut frame = vec![0; length];
    file.read_exact(&mut frame)?;
    Ok(Some(frame))
}
