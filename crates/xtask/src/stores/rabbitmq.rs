//! RabbitMQ 3.10 with its management API, on loopback ports, with an epmd of its own.

use std::{collections::BTreeMap, fs, net::TcpStream, path::PathBuf, time::Duration};

use base64::Engine as _;

use super::{Starter, Store};
use crate::{
    instance::give_to,
    process::{self, Spec, Stop},
};

/// Refuses to run as root.
const USER: &str = "rabbitmq";

pub(super) fn start(starter: &Starter<'_>) -> anyhow::Result<Store> {
    let (port, management, distribution, epmd) = (starter.port()?, starter.port()?, starter.port()?, starter.port()?);
    let password = starter.secrets.get("rabbitmq")?;
    let dir = starter.instance.data_dir("rabbitmq", Some(USER))?;
    let log = starter.instance.logs()?.join("rabbitmq.log");

    let config = format!(
        "listeners.tcp.1 = 127.0.0.1:{port}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {management}\n\
         default_user = kronos\n\
         default_pass = {password}\n\
         loopback_users = none\n\
         disk_free_limit.absolute = 50MB\n\
         vm_memory_high_watermark.absolute = 1GB\n\
         raft.wal_max_size_bytes = 64000000\n\
         collect_statistics_interval = 1000\n\
         log.file = false\n\
         log.console = true\n\
         log.console.level = warning\n"
    );
    for (name, text) in [("rabbitmq.conf", config.as_str()), ("enabled_plugins", "[rabbitmq_management].\n")] {
        let file = dir.join(name);
        fs::write(&file, text)?;
        if process::is_root() {
            give_to(&file, USER)?;
        }
    }

    // RabbitMQ would start a shared one that outlives it.
    let spec = Spec {
        name: "epmd".into(),
        program: "epmd".into(),
        args: ["-address", "127.0.0.1", "-port", &epmd.to_string()].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        dir: dir.clone(),
        user: Some(USER),
        log: starter.instance.logs()?.join("epmd.log"),
        stop: Stop::Terminate,
    };
    let (running, mut child) = starter.spawn(&spec)?;
    process::wait_ready(&running, &mut child, Duration::from_secs(10), || {
        TcpStream::connect(("127.0.0.1", epmd)).is_ok()
    })?;

    let at = |name: &str| dir.join(name).display().to_string();
    let env = [
        ("HOME", dir.display().to_string()),
        ("RABBITMQ_NODENAME", "kronos@localhost".to_owned()),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_NODE_PORT", port.to_string()),
        ("RABBITMQ_DIST_PORT", distribution.to_string()),
        ("RABBITMQ_MNESIA_BASE", at("mnesia")),
        ("RABBITMQ_LOG_BASE", at("log")),
        ("RABBITMQ_PID_FILE", at("pid")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
        ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        // Two schedulers that do not spin: it shares the machine with everything else.
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none".to_owned(),
        ),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("ERL_EPMD_PORT", epmd.to_string()),
        ("LANG", "C.UTF-8".to_owned()),
        // The script becomes the broker instead of waiting beside it: the pid that we know is the broker's.
        ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
    ];
    let spec = Spec {
        name: "rabbitmq".into(),
        program: PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server"),
        args: Vec::new(),
        env: env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        dir,
        user: Some(USER),
        log,
        stop: Stop::Terminate,
    };
    let (running, mut child) = starter.spawn(&spec)?;
    let login = base64::engine::general_purpose::STANDARD.encode(format!("kronos:{password}"));
    let url = format!("http://127.0.0.1:{management}");
    process::wait_ready(&running, &mut child, Duration::from_secs(90), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
            && ureq::get(format!("{url}/api/whoami")).header("authorization", format!("Basic {login}")).call().is_ok()
    })?;
    Ok(Store { url: format!("amqp://kronos:{password}@127.0.0.1:{port}"), pid: running.pid, management_url: Some(url) })
}
