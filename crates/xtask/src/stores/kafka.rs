//! Kafka 4, one KRaft node that is broker and controller, on loopback ports.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{Purpose, Starter, Store, java::Jars};
use crate::{
    process::{self, Spec, Stop},
    progress::Said,
};

/// 22 characters of base64url: any UUID. It names the cluster, and protects nothing.
const CLUSTER_ID: &str = "S3Jvbm9zRGV2Q2x1c3Rlcg";

pub(super) fn start(starter: &Starter<'_>, jars: &Jars, said: &Said) -> anyhow::Result<Store> {
    let (port, controller) = (starter.port()?, starter.port()?);
    let dir = starter.instance.data_dir("kafka", None)?;
    let data = dir.join("data");
    let properties = dir.join("server.properties");
    fs::write(&properties, settings(&data, port, controller))?;
    let class_path = format!("{}/*", jars.kafka.display());
    if !data.join("meta.properties").exists() {
        said.say("formatting");
        format(&jars.kafka, &class_path, &properties, &data)?;
        said.say("");
    }
    let mut args = vec!["-Xms128m".to_owned(), "-Xmx512m".to_owned(), "-XX:+UseSerialGC".to_owned()];
    if starter.purpose == Purpose::Tests {
        args.push("-XX:TieredStopAtLevel=1".to_owned());
    }
    for setting in ["defaultLogLevel=warn", "log.kafka.server.KafkaRaftServer=info", "showDateTime=true"] {
        args.push(format!("-Dorg.slf4j.simpleLogger.{setting}"));
    }
    args.extend(["-cp".to_owned(), class_path, "kafka.Kafka".to_owned(), properties.display().to_string()]);
    let log = starter.instance.logs()?.join("kafka.log");
    let spec = Spec {
        name: "kafka".into(),
        program: "java".into(),
        args,
        env: BTreeMap::new(),
        dir,
        user: None,
        log: log.clone(),
        stop: Stop::Terminate,
    };
    let begin = fs::metadata(&log).map_or(0, |meta| meta.len());
    let (running, mut child) = starter.spawn(&spec)?;
    process::wait_ready(&running, &mut child, Duration::from_secs(90), || {
        fs::read(&log).is_ok_and(|bytes| {
            let new = bytes.get(usize::try_from(begin).unwrap_or(0)..).unwrap_or_default();
            String::from_utf8_lossy(new).contains("Kafka Server started")
        })
    })?;
    Ok(Store { url: format!("127.0.0.1:{port}"), pid: running.pid, management_url: None })
}

/// Formats the data folder. The result is the same for every node of ours, so it is made once and copied: that saves a
/// start of the Java machine.
fn format(cache: &Path, class_path: &str, properties: &Path, data: &Path) -> anyhow::Result<()> {
    let kept = cache.join("formatted");
    if !kept.join("meta.properties").exists() {
        let output = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-cp", class_path, "kafka.tools.StorageTool", "format"])
            .args(["-t", CLUSTER_ID, "-c"])
            .arg(properties)
            .stdin(Stdio::null())
            .output()
            .context("run java")?;
        if !output.status.success() {
            bail!("kafka's storage tool: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        return copy(data, &kept);
    }
    copy(&kept, data)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn settings(data: &Path, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         num.partitions=1\n\
         default.replication.factor=1\n\
         min.insync.replicas=1\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         share.coordinator.state.topic.num.partitions=1\n\
         group.initial.rebalance.delay.ms=0\n\
         log.segment.bytes=16777216\n\
         log.index.size.max.bytes=1048576\n\
         log.cleaner.dedupe.buffer.size=16777216\n",
        data.display()
    )
}
