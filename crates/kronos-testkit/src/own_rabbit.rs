//! A RabbitMQ broker of one test alone, for tests that kill it, hold it up, fill its disk, or want TLS of it.

use std::{process::Command, time::Duration};

use kronos_common::config::Rabbit;

use crate::{
    authority::Authority,
    process::{Folder, Process, free_port, listens},
    wait::wait_up_to,
};

const USER: &str = "rabbitmq";
const BIN: &str = "/usr/lib/rabbitmq/bin";
const NODE: &str = "own@localhost";
/// It takes its time to start, on a busy machine most of all.
const PATIENCE: Duration = Duration::from_secs(90);

/// A broker on free ports, with a folder and a port mapper of its own.
#[derive(Debug)]
pub struct OwnRabbit {
    // Dropped in this order: processes before their folder.
    broker: Option<Process>,
    _mapper: Process,
    folder: Folder,
    port: u16,
    distribution: u16,
    mapper_port: u16,
    ca_file: String,
}

impl OwnRabbit {
    /// Starts it, and waits until it takes connections.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same; it takes connections over TLS alone.
    pub async fn start_with_tls(authority: &Authority) -> Self {
        Self::start_with(Some(authority)).await
    }

    async fn start_with(authority: Option<&Authority>) -> Self {
        let folder = Folder::new("kronos-rabbit", Some(USER));
        let (port, distribution, mapper_port) = (free_port(), free_port(), free_port());
        let listener = match authority {
            None => format!("listeners.tcp.1 = 127.0.0.1:{port}\n"),
            Some(authority) => {
                let certificate = folder.write("certificate.pem", &authority.certificate);
                let key = folder.write("key.pem", &authority.key);
                let ca = folder.write("ca.pem", &std::fs::read_to_string(&authority.ca_file).expect("read a file"));
                format!(
                    "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {ca}\n\
                     ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\nssl_options.verify = verify_none\n\
                     ssl_options.fail_if_no_peer_cert = false\n"
                )
            }
        };
        let settings = "default_user = kronos\ndefault_pass = of-one-test\nloopback_users = none\n\
                        disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 1GB\n\
                        raft.wal_max_size_bytes = 64000000\nlog.file = false\nlog.console = true\n\
                        log.console.level = warning\n";
        folder.write("rabbitmq.conf", &(listener + settings));
        folder.write("enabled_plugins", "[].\n");
        let mut mapper = folder.command("epmd");
        mapper.args(["-address", "127.0.0.1", "-port", &mapper_port.to_string()]);
        let mapper = Process::start(&folder, &mut mapper, "epmd.log");
        wait_up_to(PATIENCE, "the port mapper listens", async || listens(mapper_port).await).await;
        let ca_file = authority.map(|authority| authority.ca_file.clone()).unwrap_or_default();
        let mut rabbit = Self { broker: None, _mapper: mapper, folder, port, distribution, mapper_port, ca_file };
        rabbit.restart().await;
        rabbit
    }

    /// A `[rabbit]` section for it.
    pub fn config(&self) -> Rabbit {
        let scheme = if self.ca_file.is_empty() { "amqp" } else { "amqps" };
        Rabbit {
            url: format!("{scheme}://kronos:of-one-test@localhost:{}", self.port).into(),
            confirm_timeout_ms: 3000,
            ca_file: self.ca_file.clone(),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.broker = None;
    }

    /// Starts it on what it left, and waits until it takes connections.
    pub async fn restart(&mut self) {
        let mut command = self.command("rabbitmq-server");
        self.broker = Some(Process::start(&self.folder, &mut command, "rabbitmq.log"));
        let port = self.port;
        wait_up_to(PATIENCE, "RabbitMQ listens", async || listens(port).await).await;
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.broker.as_ref().expect("it runs").freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.broker.as_ref().expect("it runs").thaw();
    }

    /// So much of the disk must be free, such as `50MB`; with less the broker raises its alarm and takes no publishes.
    pub fn set_disk_limit(&self, limit: &str) {
        let mut command = self.command("rabbitmqctl");
        self.folder.run(command.args(["--node", NODE, "set_disk_free_limit", limit]));
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.folder.command(&format!("{BIN}/{program}"));
        let at = |name: &str| self.folder.at(name);
        command.envs([
            ("RABBITMQ_NODENAME", NODE.to_owned()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", self.port.to_string()),
            ("RABBITMQ_DIST_PORT", self.distribution.to_string()),
            ("RABBITMQ_MNESIA_BASE", at("mnesia")),
            ("RABBITMQ_LOG_BASE", at("log")),
            ("RABBITMQ_PID_FILE", at("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
            ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none".to_owned(),
            ),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_EPMD_PORT", self.mapper_port.to_string()),
            // The script becomes the broker instead of waiting beside it: the pid that we know is the broker's.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ]);
        command
    }
}
