//! A Redis server of one test alone, for tests that kill it. The stores that tests share are never killed.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use kronos_common::config::Redis;

use crate::wait::unique;

/// A server on a free port with a folder of its own; killed and removed at the end. It writes to disk only when it is told
/// to (`SAVE`), and reads that when it starts again.
#[derive(Debug)]
pub struct OwnRedis {
    port: u16,
    folder: PathBuf,
    process: Option<Child>,
}

impl Default for OwnRedis {
    fn default() -> Self {
        Self::new()
    }
}

impl OwnRedis {
    /// Chooses a port; nothing runs yet.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let folder = std::env::temp_dir().join(unique("kronos-redis"));
        std::fs::create_dir(&folder).expect("make a folder");
        Self { port, folder, process: None }
    }

    /// Starts the server, and does not wait until it answers.
    pub fn start(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
        command.current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("redis-server is installed"));
    }

    /// SIGKILL to this server.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("kill our own child");
            process.wait().expect("reap our own child");
        }
    }

    /// A `[redis]` section for it.
    pub fn config(&self) -> Redis {
        Redis {
            url: format!("redis://127.0.0.1:{}", self.port).into(),
            prefix: "kronos:".into(),
            max_connections: 4,
            timeout_ms: 500,
        }
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
        // A folder that stays is only litter.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
