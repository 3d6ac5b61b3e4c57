//! The spill: lines that were acknowledged while PostgreSQL was away, in files, fsynced before the acknowledgement. Each
//! process writes its own file and holds a lock on it; the lock dies with the process, so that the next one takes over what
//! a killed one left. Record: length (4 bytes), first 8 bytes of its SHA-256, lines as JSON; a torn record ends a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::line::Line;

const HEAD: usize = 12;
const EXTENSION: &str = "spill";
/// A file does not grow beyond this by more than one batch, since it is replayed whole.
const SEGMENT_BYTES: u64 = 16 << 20;

/// The spill of this process.
#[derive(Debug, Clone)]
pub struct Spill(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    max_bytes: u64,
    /// Our own file, if there is one; its length.
    own: Option<(PathBuf, File, u64)>,
    /// Left by others, when we started or looked last.
    orphaned_bytes: u64,
}

/// Why lines were not spilled.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    #[error("the spill is full")]
    Full,
    #[error("write the spill")]
    Io(#[from] io::Error),
}

/// A file of spilled lines, to be written to PostgreSQL and then removed.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    file: File,
    pub batches: Vec<Vec<Line>>,
}

impl Spill {
    /// Makes the directory.
    ///
    /// # Errors
    /// It can't be made or written to.
    pub fn open(directory: &Path, max_bytes: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("make the spill directory {}", directory.display()))?;
        let mut inner = Inner { directory: directory.to_owned(), max_bytes, own: None, orphaned_bytes: 0 };
        inner.orphaned_bytes =
            inner.files()?.iter().filter_map(|path| fs::metadata(path).ok()).map(|data| data.len()).sum();
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// Appends the lines and waits until they are on the disk. Blocks.
    ///
    /// # Errors
    /// The spill is full, or the disk refuses; nothing was acknowledged then.
    pub fn append(&self, lines: &[Line]) -> Result<(), SpillError> {
        let mut inner = self.lock();
        let body = serde_json::to_vec(lines).map_err(io::Error::other)?;
        let length = u32::try_from(body.len()).map_err(|_| SpillError::Full)?;
        let record_bytes = u64::from(length) + HEAD as u64;
        if inner.bytes() + record_bytes > inner.max_bytes {
            return Err(SpillError::Full);
        }
        if inner.own.is_none() {
            inner.own = Some(create(&inner.directory)?);
        }
        let Some((_, file, end)) = inner.own.as_mut() else { return Err(SpillError::Full) };
        let mut record = Vec::with_capacity(body.len() + HEAD);
        record.extend_from_slice(&length.to_be_bytes());
        record.extend_from_slice(&checksum(&body));
        record.extend_from_slice(&body);
        // A failed write may have left a part: the next one begins where the last good one ended.
        file.seek(SeekFrom::Start(*end))?;
        file.write_all(&record)?;
        file.sync_data()?;
        *end += record_bytes;
        if *end >= SEGMENT_BYTES {
            // From here on anybody may replay it: the lock goes with the handle.
            let full = *end;
            inner.orphaned_bytes += full;
            inner.own = None;
        }
        Ok(())
    }

    /// Bytes that wait, in all files.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    /// Takes one file to be replayed: our own, which then no longer grows, or one that a dead process left. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub fn take(&self) -> anyhow::Result<Option<Segment>> {
        let mut inner = self.lock();
        if let Some((path, file, length)) = inner.own.take() {
            inner.orphaned_bytes += length;
            return read(path, file).map(Some);
        }
        let files = inner.files()?;
        inner.orphaned_bytes = files.iter().filter_map(|path| fs::metadata(path).ok()).map(|data| data.len()).sum();
        drop(inner);
        for path in files {
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
            // Locked: its process lives and will replay it.
            if file.try_lock().is_ok() && path.exists() {
                return read(path, file).map(Some);
            }
        }
        Ok(None)
    }

    /// Removes a file whose lines are all in PostgreSQL. One that is not removed comes again.
    ///
    /// # Errors
    /// Of the disk.
    pub fn remove(&self, segment: &Segment) -> anyhow::Result<()> {
        let mut inner = self.lock();
        let length = segment.file.metadata().map(|data| data.len()).unwrap_or(0);
        fs::remove_file(&segment.path).context("remove a replayed spill file")?;
        sync_directory(&inner.directory)?;
        inner.orphaned_bytes = inner.orphaned_bytes.saturating_sub(length);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn bytes(&self) -> u64 {
        self.orphaned_bytes + self.own.as_ref().map_or(0, |(_, _, length)| *length)
    }

    /// All spill files but our own, oldest first.
    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let own = self.own.as_ref().map(|(path, _, _)| path);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory).context("read the spill directory")? {
            let path = entry.context("read the spill directory")?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) && Some(&path) != own {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn create(directory: &Path) -> io::Result<(PathBuf, File, u64)> {
    let path = directory.join(format!("{}.{EXTENSION}", Uuid::now_v7()));
    // Locked before it has the name under which others look for files to take over.
    let new = path.with_extension("new");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&new)?;
    file.lock()?;
    fs::rename(&new, &path)?;
    sync_directory(directory)?;
    Ok((path, file, 0))
}

/// Without it, a crash of the machine could forget that the file exists.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn read(path: PathBuf, mut file: File) -> anyhow::Result<Segment> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes).with_context(|| format!("read the spill file {}", path.display()))?;
    let mut rest = bytes.as_slice();
    let mut batches = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((body, next)) = after.split_at_checked(length) else { break };
        if checksum(body) != head[4..] {
            break;
        }
        match serde_json::from_slice(body) {
            Ok(lines) => batches.push(lines),
            Err(error) => {
                // Of another version: put aside for a human, with what else is in the file.
                fs::rename(&path, path.with_extension("unreadable")).context("put an unreadable spill file aside")?;
                return Err(anyhow::Error::new(error).context(format!("read the spill file {}", path.display())));
            }
        }
        rest = next;
    }
    if !rest.is_empty() {
        // It was being written when the process died, so it was never acknowledged.
        tracing::warn!(file = %path.display(), bytes = rest.len(), "spill file ends in a torn record");
    }
    Ok(Segment { path, file, batches })
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(body);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    first
}
