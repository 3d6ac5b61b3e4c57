//! Ports: free private ones for the stores, and who holds one that is taken. It reads `/proc` and sends nothing.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    path::Path,
};

use anyhow::{Context as _, bail};

/// Below Linux's ephemeral range (32768-60999), so that no outgoing connection can take one meanwhile.
const PRIVATE: Range<u16> = 20_000..32_000;

/// Hands out ports of the private range that were free when asked, each once.
pub(crate) struct Ports {
    next: u16,
    left: u16,
}

impl Ports {
    /// Begins at a random place, so that two instances that start at once do not race for the same ports.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut bytes = [0; 2];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let count = PRIVATE.end - PRIVATE.start;
        Ok(Self { next: PRIVATE.start + u16::from_le_bytes(bytes) % count, left: count })
    }

    /// # Errors
    /// When no port of the range is free.
    pub(crate) fn take(&mut self) -> anyhow::Result<u16> {
        while self.left > 0 {
            let port = self.next;
            self.left -= 1;
            self.next = if port + 1 == PRIVATE.end { PRIVATE.start } else { port + 1 };
            if is_free(port) {
                return Ok(port);
            }
        }
        bail!("no free port between {} and {}", PRIVATE.start, PRIVATE.end - 1)
    }
}

pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The process that listens on a port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

/// Fails with the holder's pid and command if the port is taken.
pub(crate) fn ensure_free(port: u16, wanted_by: &str) -> anyhow::Result<()> {
    if is_free(port) {
        return Ok(());
    }
    match holder(port).with_context(|| format!("look for the holder of port {port}"))? {
        Some(Holder { pid, command }) => {
            bail!(
                "port {port}, which {wanted_by} needs, is taken by process {pid}: {command}\n  stop it (kill {pid}), then try again"
            )
        }
        None => bail!("port {port}, which {wanted_by} needs, is taken by a process of another user or container"),
    }
}

/// Who listens on `port`, as far as this user may see.
pub(crate) fn holder(port: u16) -> anyhow::Result<Option<Holder>> {
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(text) = fs::read_to_string(table) {
            inodes.extend(listening_inodes(&text, port));
        }
    }
    if inodes.is_empty() {
        return Ok(None);
    }
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if holds(&entry.path(), &sockets) {
            return Ok(Some(Holder { pid, command: command_of(&entry.path()) }));
        }
    }
    Ok(None)
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(open) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    open.flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|target| target.to_str().is_some_and(|target| sockets.iter().any(|socket| socket == target)))
}

fn command_of(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let line = line.trim();
    if line.is_empty() {
        fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned()
    } else {
        line.chars().take(120).collect()
    }
}

/// The socket inodes that listen on `port`, from the text of `/proc/net/tcp` or `tcp6`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let local = columns.nth(1)?;
            let state = columns.nth(1)?;
            let inode = columns.nth(5)?.parse().ok()?;
            let (_, local_port) = local.rsplit_once(':')?;
            let same = u16::from_str_radix(local_port, 16).ok()? == port;
            (same && state == LISTEN).then_some(inode)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000 20 4 30 10 -1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000 100 0 0 10 0
";

    #[test]
    fn only_the_listener_of_the_port_is_found() {
        assert_eq!(listening_inodes(TABLE, 8080), [4711]);
        assert_eq!(listening_inodes(TABLE, 22), [4713]);
        assert!(listening_inodes(TABLE, 49153).is_empty());
    }

    #[test]
    fn a_taken_port_names_this_process_as_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(holder(port).unwrap().map(|holder| holder.pid), Some(std::process::id()));
        let error = ensure_free(port, "the gateway").unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("the gateway"), "{error}");
    }

    #[test]
    fn a_port_is_handed_out_once() {
        let mut ports = Ports::new().unwrap();
        let taken: Vec<u16> = (0..20).map(|_| ports.take().unwrap()).collect();
        let mut unique = taken.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), taken.len());
        assert!(taken.iter().all(|port| PRIVATE.contains(port)));
    }
}
