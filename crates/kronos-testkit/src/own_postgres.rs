//! A PostgreSQL server of one test alone, for tests that kill it: with one service's schema, migrated.

use std::{process::Command, time::Duration};

use kronos_common::config::Postgres;
use reqwest::Url;

use crate::{
    database::TestDatabase,
    process::{Folder, Process, free_port},
    stores::Stores,
    wait::wait_up_to,
};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// Refuses to run as root.
const USER: &str = "postgres";
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a free port, with a folder of its own. What it has committed survives its process, not the machine.
#[derive(Debug)]
pub struct OwnPostgres {
    // Dropped in this order: the process before its folder.
    server: Option<Process>,
    folder: Folder,
    port: u16,
    role: &'static str,
}

impl OwnPostgres {
    /// Starts it with a copy of one schema, whose role is its owner.
    pub async fn start(role: &'static str, schema: &str) -> Self {
        let folder = Folder::new("kronos-postgres", Some(USER));
        let data = folder.at("data");
        let mut initdb = folder.command(&format!("{BIN}/initdb"));
        initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--username=owner"]);
        folder.run(initdb.args(["--pgdata", &data]));
        let mut postgres = Self { server: None, folder, port: free_port(), role };
        postgres.restart().await;
        postgres.psql("owner", "postgres", &format!("create role {role} login"));
        postgres.psql("owner", "postgres", &format!("create database kronos owner {role}"));
        postgres.psql("owner", "kronos", &format!("alter role {role} set search_path = {schema}"));
        // Of a copy: nobody may be in the template while others copy it.
        let source = TestDatabase::create().await;
        let url = Url::parse(&Stores::get().postgres.url).expect("stores.json holds URLs");
        let mut dump = Command::new(format!("{BIN}/pg_dump"));
        dump.args(["--no-owner", "--no-privileges", "--schema", schema, "--file", &postgres.folder.at("schema.sql")]);
        dump.args(["--host", "127.0.0.1", "--port", &url.port().expect("a URL with a port").to_string()]);
        dump.args(["--username", url.username(), source.name()]);
        dump.env("PGPASSWORD", url.password().unwrap_or_default());
        postgres.folder.run(&mut dump);
        let restore = std::fs::read_to_string(postgres.folder.at("schema.sql")).expect("read a file");
        let file = postgres.folder.write("restore.sql", &restore);
        let mut psql = postgres.client(role, "kronos");
        postgres.folder.run(psql.args(["--file", &file]));
        postgres
    }

    /// A `[postgres]` section for it.
    pub fn config(&self) -> Postgres {
        Postgres {
            url: format!("postgres://{}@127.0.0.1:{}/kronos", self.role, self.port).into(),
            max_connections: 16,
            acquire_timeout_ms: 3000,
            statement_timeout_ms: 10_000,
        }
    }

    /// SIGKILL to the server; its sessions end when they notice.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts it on what it left, and waits until it answers.
    pub async fn restart(&mut self) {
        wait_up_to(PATIENCE, "PostgreSQL answers", async || {
            // While a session of the one before lives, it refuses to start.
            if self.server.as_mut().is_none_or(Process::has_ended) {
                let mut command = self.folder.command(&format!("{BIN}/postgres"));
                command.args(["-D", &self.folder.at("data"), "-p", &self.port.to_string(), "-k", ""]);
                let settings = ["listen_addresses=127.0.0.1", "fsync=off", "max_connections=200", "jit=off"];
                command.args(settings.iter().flat_map(|setting| ["-c", setting]));
                self.server = Some(Process::start(&self.folder, &mut command, "postgres.log"));
            }
            let mut ready = self.folder.command(&format!("{BIN}/pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            ready.status().is_ok_and(|status| status.success())
        })
        .await;
    }

    fn psql(&self, user: &str, database: &str, statement: &str) {
        self.folder.run(self.client(user, database).args(["-c", statement]));
    }

    fn client(&self, user: &str, database: &str) -> Command {
        let mut command = self.folder.command(&format!("{BIN}/psql"));
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command.args(["-U", user, "-d", database]);
        command
    }
}
