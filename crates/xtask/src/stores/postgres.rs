//! PostgreSQL 15: a cluster of its own, on a TCP port of the loopback interface, no Unix socket.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{Purpose, Starter, Store};
use crate::{
    instance::give_to,
    process::{self, Spec, Stop},
};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// Refuses to run as root.
const USER: &str = "postgres";
const SUPERUSER: &str = "kronos_admin";

pub(super) fn start(starter: &Starter<'_>) -> anyhow::Result<Store> {
    let port = starter.port()?;
    let password = starter.secrets.get("postgres")?;
    let home = starter.instance.data_dir("postgres", Some(USER))?;
    let data = home.join("data");
    if !data.join("PG_VERSION").exists() {
        initdb(starter, &home, &data, &password)?;
    }
    fs::write(data.join("kronos.conf"), settings(starter.purpose, port))?;
    let spec = Spec {
        name: "postgres".into(),
        program: PathBuf::from(BIN).join("postgres"),
        args: vec![
            "-D".into(),
            data.display().to_string(),
            format!("--config-file={}/postgresql.conf", data.display()),
        ],
        env: BTreeMap::new(),
        dir: home,
        user: Some(USER),
        log: starter.instance.logs()?.join("postgres.log"),
        stop: Stop::Interrupt,
    };
    let (running, mut child) = starter.spawn(&spec)?;
    let url = format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres");
    process::wait_ready(&running, &mut child, Duration::from_secs(60), || {
        let mut ready = Command::new(format!("{BIN}/pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        ready.status().is_ok_and(|status| status.success())
    })?;
    Ok(Store { url, pid: running.pid, management_url: None })
}

fn initdb(starter: &Starter<'_>, home: &Path, data: &Path, password: &str) -> anyhow::Result<()> {
    let password_file = home.join("password");
    fs::write(&password_file, password)?;
    if process::is_root() {
        give_to(&password_file, USER)?;
    }
    let spec = Spec {
        name: "initdb".into(),
        program: PathBuf::from(BIN).join("initdb"),
        args: [
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth=scram-sha-256",
            "--username",
            SUPERUSER,
            "--pwfile",
            &password_file.display().to_string(),
            "--pgdata",
            &data.display().to_string(),
        ]
        .map(str::to_owned)
        .to_vec(),
        env: BTreeMap::new(),
        dir: home.to_owned(),
        user: Some(USER),
        log: starter.instance.logs()?.join("postgres.log"),
        stop: Stop::Terminate,
    };
    let (_, mut child) = process::spawn(&spec)?;
    let status = child.wait()?;
    fs::remove_file(&password_file)?;
    if !status.success() {
        bail!("initdb failed ({status}){}", process::log_excerpt(&spec.log));
    }
    let file = data.join("postgresql.conf");
    let text = fs::read_to_string(&file)? + "\ninclude = 'kronos.conf'\n";
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}

fn settings(purpose: Purpose, port: u16) -> String {
    let mut text = format!(
        "port = {port}\n\
         listen_addresses = '127.0.0.1'\n\
         unix_socket_directories = ''\n\
         max_connections = 500\n\
         shared_buffers = 128MB\n\
         shared_preload_libraries = 'pg_stat_statements'\n\
         log_timezone = 'UTC'\n\
         timezone = 'UTC'\n\
         jit = off\n"
    );
    if purpose == Purpose::Tests {
        // A crash of the machine may lose what a test wrote; nothing else may.
        text += "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nmax_wal_size = 4GB\n";
        // A test that ends while it logs in leaves a session that nobody speaks to, and `drop database` waits for
        // every session of the server.
        text += "authentication_timeout = 5s\n";
    }
    text
}

/// `psql` against one database, for the few statements that are ours to make.
pub(crate) struct Psql<'a> {
    pub(crate) url: &'a str,
}

impl Psql<'_> {
    /// Runs statements, each in its own transaction, and returns what they print, unaligned.
    pub(crate) fn run(&self, statements: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(format!("{BIN}/psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        for statement in statements {
            command.args(["-c", statement]);
        }
        // The address, with its password, goes where `ps` does not show it.
        let (url, password) = split_password(self.url);
        let output = command.arg(url).env("PGPASSWORD", password).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// `scheme://user:password@rest` as `scheme://user@rest` and the password.
fn split_password(url: &str) -> (String, String) {
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let (login, host) = rest.split_once('@')?;
        let (user, password) = login.split_once(':')?;
        Some((format!("{scheme}://{user}@{host}"), password.to_owned()))
    };
    parts().unwrap_or_else(|| (url.to_owned(), String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_taken_out_of_a_url() {
        let (url, password) = split_password("postgres://admin:secret@127.0.0.1:5/postgres");
        assert_eq!((url.as_str(), password.as_str()), ("postgres://admin@127.0.0.1:5/postgres", "secret"));
    }

    #[test]
    fn only_tests_give_up_durability() {
        assert!(settings(Purpose::Tests, 1).contains("fsync = off"));
        assert!(!settings(Purpose::Platform, 1).contains("fsync"));
    }
}
