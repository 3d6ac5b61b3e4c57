//! `logs SERVICE`: what a service or store has written, and what it writes.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::bail;

use super::DEV;
use crate::{instance::Instance, pause, process, stores::stop_flag};

/// `cargo xtask logs NAME [--follow] [--lines N]`.
pub(crate) fn logs(name: &str, follow: bool, lines: usize) -> anyhow::Result<()> {
    let instance = Instance::look(DEV)?;
    let known = instance.known();
    let folder = instance.dir.join("logs");
    let log = folder.join(format!("{name}.log"));
    if name.contains('/') || !log.exists() {
        if known.is_empty() {
            bail!("there are no logs: Kronos is not up (cargo xtask up)");
        }
        let names: Vec<&str> = known.iter().map(|process| process.name.as_str()).collect();
        bail!("there is no log of {name}; there are {}", names.join(", "));
    }
    let stop = stop_flag()?;
    let mut out = std::io::stdout().lock();
    let end = std::fs::metadata(&log)?.len();
    for line in process::tail(&log, lines)? {
        writeln!(out, "{line}")?;
    }
    if follow { follow_from(&log, end, &mut out, &stop) } else { Ok(()) }
}

fn follow_from(log: &Path, mut at: u64, out: &mut impl std::io::Write, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut file = File::open(log)?;
    let mut new = Vec::new();
    while !stop.load(Ordering::Relaxed) && log.exists() {
        file.seek(SeekFrom::Start(at))?;
        new.clear();
        at += u64::try_from(file.read_to_end(&mut new)?)?;
        out.write_all(&new)?;
        out.flush()?;
        pause(Duration::from_millis(150));
    }
    Ok(())
}
