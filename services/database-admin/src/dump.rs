//! One run of `pg_dump`, from the process to the finished file. Which backups there are is in `store::backups`; the
//! file's form is in `vault`.

use std::{
    fs::{self, File, OpenOptions},
    io::BufWriter,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use kronos_common::seal::Keyring;
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};
use url::Url;
use uuid::Uuid;

use crate::{config, migrate::SERVICES, vault};

/// How far a dump is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Tables whose rows are written.
    pub tables_done: AtomicI32,
    /// Bytes of the file.
    pub bytes: AtomicU64,
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its name in the directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
}

/// The name of a backup's file while it is written: whatever has it and no running backup is rubbish.
pub fn unfinished_name(id: Uuid) -> String {
    format!("{id}.part")
}

/// Dumps the seven schemas into the directory. Dropping the future ends the process.
///
/// # Errors
/// The directory can't be written, or `pg_dump` fails: then its own first error is in the message.
pub async fn run(
    config: &config::Backup,
    id: Uuid,
    keyring: Option<Arc<Keyring>>,
    progress: Arc<Progress>,
) -> anyhow::Result<Finished> {
    let directory = config.directory.clone();
    let sealed = keyring.is_some();
    let unfinished = directory.join(unfinished_name(id));
    let (file, path) = tokio::task::spawn_blocking(move || create(&directory, &unfinished)).await??;
    let dumped = stream(config, id, keyring, progress, file).await;
    let finished = match dumped {
        Ok((bytes, sha256)) => {
            let file = format!("{id}.{}", if sealed { "kbk" } else { "dump" });
            let named = config.directory.join(&file);
            let from = path.clone();
            tokio::task::spawn_blocking(move || publish(&from, &named)).await?.map(|()| Finished {
                file,
                bytes,
                sha256,
            })
        }
        Err(error) => Err(error),
    };
    if finished.is_err() {
        // It may be gone already.
        let _ = fs::remove_file(&path);
    }
    finished
}

fn create(directory: &Path, unfinished: &Path) -> anyhow::Result<(File, PathBuf)> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("create directory {}", directory.display()))?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(unfinished)
        .with_context(|| format!("create {}", unfinished.display()))?;
    Ok((file, unfinished.to_owned()))
}

/// Gives the file its name, and makes that survive a power cut too.
fn publish(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to).with_context(|| format!("rename to {}", to.display()))?;
    let directory = to.parent().context("a backup lies in a directory")?;
    File::open(directory).and_then(|directory| directory.sync_all()).context("sync the directory")
}

async fn stream(
    config: &config::Backup,
    id: Uuid,
    keyring: Option<Arc<Keyring>>,
    progress: Arc<Progress>,
    file: File,
) -> anyhow::Result<(u64, String)> {
    let mut child = command(config)?.spawn().with_context(|| format!("start {}", config.pg_dump.display()))?;
    let mut dump = child.stdout.take().context("standard output is piped")?;
    let watched = watch(&mut child, Arc::clone(&progress))?;

    // Sealing and the disk have a thread of their own; two chunks may wait for it.
    let (chunks, mut arriving) = tokio::sync::mpsc::channel::<Vec<u8>>(2);
    let written = tokio::task::spawn_blocking(move || {
        let mut writer = vault::Writer::new(BufWriter::new(file), id, keyring)?;
        while let Some(chunk) = arriving.blocking_recv() {
            writer.push(&chunk)?;
            progress.bytes.store(writer.bytes(), Ordering::Relaxed);
        }
        let (out, bytes, sha256) = writer.finish()?;
        out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        std::io::Result::Ok((bytes, sha256))
    });
    loop {
        let mut chunk = Vec::with_capacity(vault::CHUNK);
        if dump.read_buf(&mut chunk).await.context("read from pg_dump")? == 0 {
            break;
        }
        if chunks.send(chunk).await.is_err() {
            break; // The writer failed; it says why.
        }
    }
    drop(chunks);
    let written = written.await?.context("write the backup")?;
    let status = child.wait().await.context("wait for pg_dump")?;
    let first_error = watched.await.unwrap_or_default();
    anyhow::ensure!(status.success(), "pg_dump ended with {status}: {first_error}");
    Ok(written)
}

/// Reads what `pg_dump --verbose` says: counts the tables, keeps its first error.
fn watch(child: &mut Child, progress: Arc<Progress>) -> anyhow::Result<tokio::task::JoinHandle<String>> {
    let words = child.stderr.take().context("standard error is piped")?;
    Ok(tokio::spawn(async move {
        let mut lines = BufReader::new(words).lines();
        let mut first_error = String::new();
        let mut begun = 0;
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("dumping contents of table") {
                // Said when a table begins: those before it are done.
                progress.tables_done.store(begun, Ordering::Relaxed);
                begun += 1;
            } else if first_error.is_empty() && line.contains("error:") {
                first_error = line.chars().take(500).collect();
            }
        }
        first_error
    }))
}

fn command(config: &config::Backup) -> anyhow::Result<Command> {
    let mut url = Url::parse(config.url.expose_secret()).ok().context("configuration key `backup.url` is not a URL")?;
    let password = url.password().map(decoded).transpose()?;
    // Arguments can be seen by every process on the machine.
    let _ = url.set_password(None);
    let mut command = Command::new(&config.pg_dump);
    command
        .arg("--format=custom")
        .arg(format!("--compress={}", config.compression))
        .args(["--verbose", "--no-password", "--lock-wait-timeout=30000"])
        .args(SERVICES.iter().map(|service| format!("--schema={}", service.schema)))
        // Schemas alone leave out the extension whose operators their indexes use.
        .arg("--extension=pg_trgm")
        .arg(format!("--dbname={url}"))
        .env("LC_MESSAGES", "C")
        .env("PGAPPNAME", "database-admin backup")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    Ok(command)
}

/// Undoes a URL's percent encoding.
fn decoded(text: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                bytes.extend(hex::decode(digits).context("configuration key `backup.url` has a broken % escape")?);
                rest = tail;
            }
            (byte, tail) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).context("the password in `backup.url` is not UTF-8")
}
