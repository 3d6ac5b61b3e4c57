//! Cores, processor time and memory of processes, and the load itself: wrk.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, ensure};

use super::figure;

/// One for the proxy, one for all else.
pub(super) fn cores() -> anyhow::Result<(usize, usize)> {
    let count = std::thread::available_parallelism()?.get();
    ensure!(count >= 2, "this needs two cores: one for the proxy alone");
    Ok((0, 1))
}

/// What became of a load.
pub(super) struct Load {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Seconds that the proxy's processes have computed.
    pub(super) processor: f64,
    pub(super) per_second: f64,
}

/// 64 connections on `core` that ask as fast as they are answered, while `pids` are watched.
pub(super) fn load(url: &str, token: Option<&str>, time: Duration, core: usize, pids: &[u32]) -> anyhow::Result<Load> {
    let mut command = pinned(core, "wrk");
    command.args(["-t1", "-c64", &format!("-d{}s", time.as_secs())]);
    if let Some(token) = token {
        command.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let before = processor_seconds(pids)?;
    let output = command.arg(url).output().context("run wrk: `apt-get install wrk`")?;
    let processor = processor_seconds(pids)? - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find(|line| line.contains(" requests in ")).with_context(|| text.clone())?;
    let requests = line.split_whitespace().next().context("no number")?.parse()?;
    let failed = match text.lines().find_map(|line| line.trim().strip_prefix("Non-2xx or 3xx responses:")) {
        Some(count) => count.trim().parse()?,
        None => 0,
    };
    let per_second = figure(&text, "Requests/sec:")?.parse()?;
    Ok(Load { requests, failed, processor, per_second })
}

/// A command that runs on one core only.
pub(super) fn pinned(core: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// Of all threads of these processes, exactly (the scheduler's own account).
fn processor_seconds(pids: &[u32]) -> anyhow::Result<f64> {
    let mut nanos = 0_u64;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
            // A thread may end while we look.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            nanos += text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or_default();
        }
    }
    Ok(nanos as f64 / 1e9)
}

/// Memory of a process.
pub(super) fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    figure(&status, "VmRSS:")?.split_whitespace().next().context("no VmRSS")?.parse().context("read VmRSS")
}
