//! The real nginx, with a folder of its own, until it is dropped.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use kronos_testkit::{unique, wait_up_to};
use tokio::net::TcpStream;

use crate::harness::free;

pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    pub(crate) folder: PathBuf,
    process: Child,
}

impl Nginx {
    /// `configuration`: for where it listens and the folder where it may write.
    pub(crate) async fn start(configuration: impl FnOnce(SocketAddr, &Path) -> String) -> Self {
        let (address, folder) = (free(), std::env::temp_dir().join(unique("kronos-nginx")));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration(address, &folder)).unwrap();
        let process = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(&folder)
            .args(["-g", "daemon off;"])
            .spawn()
            .expect("nginx-core is installed by `cargo xtask test`");
        wait_up_to(Duration::from_secs(20), "nginx listens", async || TcpStream::connect(address).await.is_ok()).await;
        Self { address, folder, process }
    }

    /// What it wrote to a file of its folder.
    pub(crate) fn wrote(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its worker ends with it; a killed master would leave one behind.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
