//! What is measured, as processes of the benchmark's own: nginx as the instance and as the rival, and a gateway with the
//! settings of the platform's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;

use super::{issuer::Issuer, machine::pinned};
use crate::{
    Service,
    load::{Call, Connection},
};

const COMMON: &str = "daemon off; worker_processes 1; error_log /dev/null crit; pid PLACE/pid;\n\
    events { worker_connections 4096; }\n\
    http { access_log off; client_body_temp_path PLACE/b; proxy_temp_path PLACE/p; fastcgi_temp_path PLACE/f;\n\
    uwsgi_temp_path PLACE/u; scgi_temp_path PLACE/s; keepalive_requests 100000000; keepalive_timeout 75s;\n";

/// Says a kibibyte.
pub(super) const INSTANCE: &str = "server { listen 127.0.0.1:7199; location / { return 200 BODY; }\n\
    location /authority { return 204; } } }";
/// Passes on, and does nothing else.
pub(super) const NGINX: &str = "upstream i { server 127.0.0.1:7199; keepalive 128; keepalive_requests 100000000; }\n\
    server { listen 127.0.0.1:7198; location / { proxy_pass http://i; proxy_http_version 1.1; proxy_set_header Connection \"\"; } } }";
/// Asks an authority, whose time is not counted, about every request, and limits each address.
pub(super) const NGINX_POLICIES: &str = "upstream i { server 127.0.0.1:7199; keepalive 128; keepalive_requests 100000000; }\n\
    limit_req_zone $binary_remote_addr zone=a:10m rate=1000000r/s;\n\
    server { listen 127.0.0.1:7197; location / { auth_request /authority; limit_req zone=a burst=1000000 nodelay;\n\
    proxy_pass http://i; proxy_http_version 1.1; proxy_set_header Connection \"\"; }\n\
    location = /authority { internal; proxy_pass http://i; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
    proxy_pass_request_body off; } } }";

/// One nginx.
pub(super) struct Nginx {
    pub(super) url: String,
    child: Child,
    place: PathBuf,
}

impl Nginx {
    pub(super) fn start(name: &str, config: &str, core: usize) -> anyhow::Result<Self> {
        let place = std::env::temp_dir().join(format!("kronos-bench-{}-{name}", std::process::id()));
        fs::create_dir_all(&place)?;
        let text = format!("{COMMON}{config}")
            .replace("PLACE", &place.display().to_string())
            .replace("BODY", &"x".repeat(1024));
        let file = place.join("nginx.conf");
        fs::write(&file, &text)?;
        let port = text.split("listen 127.0.0.1:").nth(1).and_then(|rest| rest.split(';').next()).context("no port")?;
        let child = pinned(core, "nginx").arg("-c").arg(&file).arg("-p").arg(&place).stderr(Stdio::null()).spawn();
        let child = child.context("run nginx: `apt-get install nginx-core`")?;
        let url = format!("http://127.0.0.1:{port}");
        let nginx = Self { child, url, place };
        let address = format!("127.0.0.1:{port}");
        for _ in 0..100 {
            if std::net::TcpStream::connect(&address).is_ok() {
                return Ok(nginx);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        anyhow::bail!("nginx does not answer on {address}")
    }

    /// The master and its worker.
    pub(super) fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).context("nginx has ended")?;
        let workers = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        Ok([id].into_iter().chain(workers).collect())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker when it is asked, not when it is killed.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.place);
    }
}

/// One gateway with one core.
pub(super) struct Kronos {
    pub(super) url: String,
    child: Child,
    file: PathBuf,
}

impl Kronos {
    /// With the environment of `model`, but a port, an issuer and a worker of its own, and with `table` from a file instead
    /// of PostgreSQL, which the platform's own gateways follow.
    pub(super) async fn start(
        model: &Service,
        binary: Option<&Path>,
        issuer: &Issuer,
        core: usize,
        table: &Value,
    ) -> anyhow::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{}", model.pid));
        let binary = match binary {
            Some(binary) => binary.to_owned(),
            None => fs::read_link(proc.join("exe")).context("find the platform's gateway")?,
        };
        let environment = fs::read(proc.join("environ")).context("read the settings of the platform's gateway")?;
        let (api, operations) = (free_port()?, free_port()?);
        let file = std::env::temp_dir().join(format!("kronos-bench-{}-{api}.json", std::process::id()));
        fs::write(&file, table.to_string())?;
        let mut command = pinned(core, binary);
        command.env_clear();
        for pair in environment.split(|byte| *byte == 0) {
            let pair = String::from_utf8_lossy(pair);
            if let Some((name, value)) = pair.split_once('=') {
                command.env(name, value);
            }
        }
        command
            .envs(issuer.environment())
            .env("KRONOS_HTTP__BIND", format!("127.0.0.1:{api}"))
            .env("KRONOS_HTTP__OPERATIONS_BIND", format!("127.0.0.1:{operations}"))
            .env("KRONOS_GATEWAY__WORKERS", "1")
            // There is no Kafka.
            .env("KRONOS_AUDIT__REQUESTS", "false")
            .env("KRONOS_GATEWAY__TABLE_PATH", &file)
            .env("KRONOS_POSTGRES__URL", "postgres://nobody@127.0.0.1:1/none")
            .env_remove("KRONOS_TELEMETRY__LOGS_ENDPOINT");
        let child = command.stdout(Stdio::null()).spawn().context("run the gateway")?;
        let kronos = Self { child, url: format!("http://127.0.0.1:{api}"), file };
        for _ in 0..300 {
            if let Ok(mut connection) = Connection::open(&format!("http://127.0.0.1:{operations}")).await
                && connection.send(&Call::get("/ready")).await.is_ok_and(|(status, _)| status.is_success())
            {
                return Ok(kronos);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the gateway does not become ready")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Drop for Kronos {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}
