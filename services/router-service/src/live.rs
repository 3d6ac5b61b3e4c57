//! The table that is served now: swapped whole when a newer version compiles, and kept on disk for a start without
//! PostgreSQL. Who brings new versions is `jobs` and the handlers.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    table::{Defaults, Registry, Snapshot, Table},
    telemetry::Metrics,
};

/// The current table and how a new one comes.
#[derive(Debug)]
pub struct Live {
    table: ArcSwap<Table>,
    registry: Registry,
    defaults: Defaults,
    metrics: Metrics,
    /// Where the last good snapshot is kept.
    file: Option<PathBuf>,
    /// One change at a time.
    changing: Mutex<()>,
    /// The version that is served, for those who follow.
    changed: watch::Sender<i64>,
}

impl Live {
    pub fn new(defaults: Defaults, metrics: Metrics, file: &str) -> Self {
        Self {
            table: ArcSwap::from_pointee(Table::empty()),
            registry: Registry::default(),
            defaults,
            metrics,
            file: (!file.is_empty()).then(|| file.into()),
            changing: Mutex::new(()),
            changed: watch::Sender::new(Table::UNKNOWN),
        }
    }

    /// The table as it is now.
    pub fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Tells of each change; the value is the version.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }

    /// Takes a snapshot over, if it is newer than what is served. What does not compile is refused whole, and the table
    /// stays. Blocks for the disk: not for a proxy's thread.
    ///
    /// # Errors
    /// What is wrong with the snapshot.
    pub fn apply(&self, snapshot: &Snapshot) -> anyhow::Result<bool> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.swap(snapshot, None)? {
            return Ok(false);
        }
        if let Some(file) = &self.file
            && let Err(error) = write(file, snapshot)
        {
            tracing::warn!(error = format!("{error:#}"), "table could not be kept on disk");
        }
        Ok(true)
    }

    /// Serves what was kept on disk, if anything was. True if there is a table now.
    pub fn restore(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let restored = read(file).and_then(|snapshot| match snapshot {
            Some(snapshot) => {
                let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
                // Older than anything stored, whatever its number says: the database may be another one now.
                self.swap(&snapshot, Some(Table::UNKNOWN))
            }
            None => Ok(false),
        });
        restored.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "table on disk is not usable");
            false
        })
    }

    fn swap(&self, snapshot: &Snapshot, version: Option<i64>) -> anyhow::Result<bool> {
        let before = self.table.load_full();
        if before.version != Table::UNKNOWN && snapshot.version <= before.version {
            return Ok(false);
        }
        let mut table =
            Table::compile(snapshot, &before, &self.registry, self.defaults, &self.metrics).map_err(|errors| {
                self.metrics.table_failures.inc();
                let all: Vec<String> =
                    errors.iter().take(10).map(|error| format!("{} {}", error.pointer, error.detail)).collect();
                anyhow::anyhow!("routes at version {} are not usable: {}", snapshot.version, all.join("; "))
            })?;
        table.version = version.unwrap_or(table.version);
        let routes: HashSet<&str> = table.route_names().collect();
        before.route_names().filter(|name| !routes.contains(name)).for_each(|name| self.metrics.forget_route(name));
        let upstreams = before.upstreams().filter(|upstream| table.upstream(&upstream.name).is_none());
        upstreams.for_each(|upstream| self.metrics.forget_upstream(&upstream.name));
        self.metrics.table_version.set(table.version);
        let version = table.version;
        self.table.store(Arc::new(table));
        self.changed.send_replace(version);
        Ok(true)
    }
}

/// Whole or not at all, also through a crash: a new file in the old one's place.
fn write(file: &Path, snapshot: &Snapshot) -> anyhow::Result<()> {
    use std::io::Write as _;
    let bytes = serde_json::to_vec(snapshot).context("write the table as JSON")?;
    let fresh = file.with_extension(format!("{}.new", std::process::id()));
    let mut out = std::fs::File::create(&fresh).with_context(|| format!("create {}", fresh.display()))?;
    out.write_all(&bytes).and_then(|()| out.sync_all()).with_context(|| format!("write {}", fresh.display()))?;
    std::fs::rename(&fresh, file).with_context(|| format!("replace {}", file.display()))
}

fn read(file: &Path) -> anyhow::Result<Option<Snapshot>> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("read {}", file.display()))
}
