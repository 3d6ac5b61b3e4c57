//! Redis 7, with a password, on a loopback port.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use super::{Purpose, Starter, Store};
use crate::process::{self, Spec, Stop};

pub(super) fn start(starter: &Starter<'_>) -> anyhow::Result<Store> {
    let port = starter.port()?;
    let password = starter.secrets.get("redis")?;
    let dir = starter.instance.data_dir("redis", None)?;
    let keep = match starter.purpose {
        Purpose::Tests => "save \"\"\nappendonly no\n",
        Purpose::Platform => "save \"\"\nappendonly yes\nappendfsync everysec\n",
    };
    let config = dir.join("redis.conf");
    let text = format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {}\ndaemonize no\nmaxclients 4000\n{keep}",
        dir.display()
    );
    fs::write(&config, text)?;
    let spec = Spec {
        name: "redis".into(),
        program: "redis-server".into(),
        args: vec![config.display().to_string()],
        env: BTreeMap::new(),
        dir,
        user: None,
        log: starter.instance.logs()?.join("redis.log"),
        stop: Stop::Terminate,
    };
    let (running, mut child) = starter.spawn(&spec)?;
    process::wait_ready(&running, &mut child, Duration::from_secs(20), || answers_ping(port, &password))?;
    Ok(Store { url: format!("redis://:{password}@127.0.0.1:{port}"), pid: running.pid, management_url: None })
}

fn answers_ping(port: u16, password: &str) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("AUTH {password}\r\n").as_bytes())?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    ask().is_ok_and(|answer| &answer == b"+OK\r\n")
}
