//! A Kafka broker of one test alone, for tests that kill it, hold it up, or want TLS and a login of it.

use std::{path::PathBuf, time::Duration};

use kronos_common::config::{Kafka, KafkaSecurity, SaslMechanism};

use crate::{
    authority::{Authority, text},
    process::{Folder, Process, free_port, listens},
    stores::kafka_at,
    wait::wait_up_to,
};

/// Any UUID, in base64url.
const CLUSTER_ID: &str = "S3Jvbm9zT3duQ2x1c3Rlcg";
const PATIENCE: Duration = Duration::from_secs(90);
/// Who may log in.
const USERNAME: &str = "kronos";
const PASSWORD: &str = "of-one-test";

/// A broker on free ports, with a folder of its own.
#[derive(Debug)]
pub struct OwnKafka {
    // Dropped in this order: the process before its folder.
    broker: Option<Process>,
    folder: Folder,
    port: u16,
    secure: Option<Secure>,
}

/// Where it wants TLS, and TLS and a login.
#[derive(Debug)]
struct Secure {
    tls: u16,
    login: u16,
    ca_file: String,
}

impl OwnKafka {
    /// Starts it, and waits until it takes connections.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same; it takes connections of others than itself over TLS alone, and at one port with a login besides.
    pub async fn start_with_tls(authority: &Authority) -> Self {
        Self::start_with(Some(authority)).await
    }

    async fn start_with(authority: Option<&Authority>) -> Self {
        let folder = Folder::new("kronos-kafka", None);
        let (port, controller) = (free_port(), free_port());
        let mut settings = settings(&folder.at("data"), controller);
        let (mut listeners, mut protocols) =
            (format!("PLAINTEXT://127.0.0.1:{port}"), "PLAINTEXT:PLAINTEXT".to_owned());
        let secure = authority.map(|authority| {
            let (tls, login) = (free_port(), free_port());
            listeners += &format!(",TLS://127.0.0.1:{tls},LOGIN://127.0.0.1:{login}");
            protocols += ",TLS:SSL,LOGIN:SASL_SSL";
            let chain = folder.write("server.pem", &format!("{}{}", authority.key, authority.certificate));
            let module = "org.apache.kafka.common.security";
            settings += &format!(
                "ssl.keystore.type=PEM\nssl.keystore.location={chain}\n\
                 sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
                 listener.name.login.plain.sasl.jaas.config={module}.plain.PlainLoginModule required \
                 user_{USERNAME}=\"{PASSWORD}\";\n\
                 listener.name.login.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
                 listener.name.login.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n"
            );
            Secure { tls, login, ca_file: authority.ca_file.clone() }
        });
        settings += &format!(
            "listeners={listeners},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={listeners}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}\n"
        );
        folder.write("server.properties", &settings);
        let mut kafka = Self { broker: None, folder, port, secure };
        kafka.format();
        kafka.restart().await;
        kafka
    }

    /// A `[kafka]` section for it, without TLS.
    pub fn config(&self) -> Kafka {
        kafka_at(format!("127.0.0.1:{}", self.port))
    }

    /// For the port that wants TLS alone.
    pub fn tls_config(&self) -> Kafka {
        let secure = self.secure.as_ref().expect("it was started with TLS");
        let ca_file = secure.ca_file.clone();
        Kafka { security: KafkaSecurity::Ssl, ca_file, ..kafka_at(format!("127.0.0.1:{}", secure.tls)) }
    }

    /// For the port that wants TLS and a login.
    pub fn login_config(&self, sasl_mechanism: SaslMechanism) -> Kafka {
        let secure = self.secure.as_ref().expect("it was started with TLS");
        Kafka {
            security: KafkaSecurity::SaslSsl,
            ca_file: secure.ca_file.clone(),
            sasl_mechanism,
            username: USERNAME.to_owned(),
            password: PASSWORD.to_owned().into(),
            ..kafka_at(format!("127.0.0.1:{}", secure.login))
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.broker = None;
    }

    /// Starts it on what it left, and waits until it takes connections.
    pub async fn restart(&mut self) {
        let mut command = self.folder.command("java");
        command.args(["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &jars(), "kafka.Kafka"]);
        command.arg(self.folder.at("server.properties"));
        self.broker = Some(Process::start(&self.folder, &mut command, "kafka.log"));
        let port = self.port;
        wait_up_to(PATIENCE, "Kafka listens", async || listens(port).await).await;
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.broker.as_ref().expect("it runs").freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.broker.as_ref().expect("it runs").thaw();
    }

    fn format(&self) {
        let mut command = self.folder.command("java");
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &jars(), "kafka.tools.StorageTool", "format"]);
        command.args(["-t", CLUSTER_ID, "-c", &self.folder.at("server.properties")]);
        if self.secure.is_some() {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                command.args(["--add-scram", &format!("{mechanism}=[name={USERNAME},password={PASSWORD}]")]);
            }
        }
        self.folder.run(&mut command);
    }
}

/// Those that the stores of all tests run on.
fn jars() -> String {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(".kronos/cache/kafka");
    assert!(folder.is_dir(), "no Kafka in {}: run `cargo xtask test`, or `cargo xtask stores`", folder.display());
    format!("{}/*", text(&folder))
}

fn settings(data: &str, controller: u16) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\nlog.dirs={data}\n\
         auto.create.topics.enable=false\nnum.partitions=1\ndefault.replication.factor=1\nmin.insync.replicas=1\n\
         offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\ngroup.initial.rebalance.delay.ms=0\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=1\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\nshare.coordinator.state.topic.num.partitions=1\n\
         log.segment.bytes=16777216\nlog.index.size.max.bytes=1048576\nlog.cleaner.dedupe.buffer.size=16777216\n"
    )
}
