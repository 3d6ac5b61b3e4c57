//! Databases made by `database-admin migrate`: the platform's own, and the template that every test's database is
//! copied from. The template is made anew when the migrations have changed.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::AtomicBool,
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{Psql, Stores};
use crate::{
    cargo,
    instance::{Instance, read_json, root, write_json},
    pause,
    progress::Progress,
};

const TEMPLATE: &str = "kronos_template";

/// Makes the template database current.
pub(super) fn ensure(instance: &Instance, stores: &Stores, progress: &Progress) -> anyhow::Result<()> {
    let root = root()?;
    let sources = ["migrations", "services/database-admin/src/migrate", "services/database-admin/src/migrate.rs"];
    let print = fingerprint(&sources.map(|source| root.join(source)))?;
    let record = instance.dir.join("template.json");
    if read_json::<u64>(&record)? == Some(print) {
        return Ok(());
    }
    progress.step("template", |said| {
        said.say("building the binaries");
        let binary = cargo::build_database_admin(said, &AtomicBool::new(false))?;
        said.say("migrating");
        make(&binary, stores)?;
        write_json(&record, &print)?;
        said.say(TEMPLATE);
        Ok(())
    })
}

/// Migrates a fresh database, then puts it in the template's place.
fn make(binary: &Path, stores: &Stores) -> anyhow::Result<()> {
    let admin = Psql { url: &stores.postgres.url };
    let fresh = format!("{TEMPLATE}_new");
    admin.run(&[&format!("drop database if exists {fresh} with (force)")])?;
    let log = migrate(binary, stores, &fresh)?;
    if admin.run(&[&format!("select count(*) from pg_database where datname = '{fresh}'")])? != "1" {
        bail!("database-admin migrate said nothing wrong, and made no database: {log}");
    }
    let exists = admin.run(&[&format!("select count(*) from pg_database where datname = '{TEMPLATE}'")])? == "1";
    let mut swap = Vec::new();
    if exists {
        swap.push(format!("alter database {TEMPLATE} with is_template false"));
        swap.push(format!("drop database {TEMPLATE} with (force)"));
    }
    swap.push(format!("alter database {fresh} rename to {TEMPLATE}"));
    // Nobody may connect to it, so that it can be copied at any time.
    swap.push(format!("alter database {TEMPLATE} with is_template true allow_connections false"));
    for statement in swap {
        retry(|| admin.run(&[&statement]))?;
    }
    Ok(())
}

/// A test may be copying the template at this moment.
fn retry(mut attempt: impl FnMut() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let mut outcome = attempt();
    for _ in 0..50 {
        if outcome.is_ok() {
            break;
        }
        pause(Duration::from_millis(200));
        outcome = attempt();
    }
    outcome.map(|_| ())
}

/// Runs `database-admin migrate` against one database, which it creates if need be. Returns what it said.
pub(crate) fn migrate(binary: &Path, stores: &Stores, database: &str) -> anyhow::Result<String> {
    let mut env = BTreeMap::from([
        ("KRONOS_MIGRATE__ADMIN_URL".to_owned(), stores.postgres.url.clone()),
        ("KRONOS_MIGRATE__DATABASE".to_owned(), database.to_owned()),
    ]);
    for (role, password) in &stores.role_passwords {
        env.insert(format!("KRONOS_MIGRATE__ROLE_PASSWORDS__{}", role.to_uppercase()), password.clone());
    }
    let output = Command::new(binary)
        .arg("migrate")
        .env_clear()
        .envs(env)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", binary.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        bail!("database-admin migrate failed:\n{said}\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(said)
}

/// Changes when any file under these folders does.
fn fingerprint(dirs: &[PathBuf]) -> anyhow::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut waiting = dirs.to_vec();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let mut entries: Vec<PathBuf> =
                fs::read_dir(&path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
            entries.sort_unstable();
            waiting.extend(entries);
        } else if path.is_file() {
            path.hash(&mut hasher);
            fs::read(&path)?.hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}
