//! The slow tests, those that a plain `cargo test` passes over: one at a time, so that each has the machine for itself.

use std::{
    io::BufRead as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::phases::{Phases, run};

/// The module of the tests that take over ten minutes: they come last, so that none of the others is left out for their sake.
const LONGEST: &str = "chaos::";

/// A test, and the program that it is in.
struct Slow {
    folder: PathBuf,
    program: PathBuf,
    name: String,
}

/// What cargo tells of a program that it built, among other things.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: Option<PathBuf>,
    executable: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Runs those of the programs that `build`, a `cargo test --no-run`, makes. After `until`, counted from the first phase on,
/// none begins any more; what is left out is named.
///
/// # Errors
/// One failed: all others were run nevertheless.
pub(crate) fn run_all(
    phases: &mut Phases,
    build: &mut Command,
    filters: &[String],
    until: Duration,
) -> anyhow::Result<()> {
    let tests = tests(build, filters)?;
    let (mut failed, mut left_out) = (Vec::new(), Vec::new());
    for (number, Slow { folder, program, name }) in tests.iter().enumerate() {
        if phases.elapsed() > until {
            left_out.push(name.as_str());
            continue;
        }
        let mut command = Command::new(program);
        command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder);
        command.args(["--quiet", "--ignored", "--exact", name]);
        if let Err(error) = phases.run(&format!("slow {}/{}: {name}", number + 1, tests.len()), || run(&mut command)) {
            println!("{error:#}");
            failed.push(name.as_str());
        }
    }
    if !left_out.is_empty() {
        println!("for want of time not run, `cargo xtask test --all` does: {}", left_out.join(", "));
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn tests(build: &mut Command, filters: &[String]) -> anyhow::Result<Vec<Slow>> {
    let built = build.args(["--quiet", "--message-format=json"]).stderr(Stdio::inherit()).output()?;
    ensure!(built.status.success(), "the tests can't be built");
    let mut tests = Vec::new();
    for line in built.stdout.lines() {
        let Artifact { manifest_path, executable, profile } =
            serde_json::from_str(&line?).context("cargo speaks JSON")?;
        let (Some(manifest), Some(program), Some(Profile { test: true })) = (manifest_path, executable, profile) else {
            continue;
        };
        let folder = manifest.parent().context("a manifest is in a folder")?;
        tests.extend(ignored(folder, &program, filters)?);
    }
    tests.sort_by_key(|test| test.name.starts_with(LONGEST));
    Ok(tests)
}

fn ignored(folder: &Path, program: &Path, filters: &[String]) -> anyhow::Result<Vec<Slow>> {
    let mut command = Command::new(program);
    command.current_dir(folder).args(["--list", "--ignored", "--format", "terse"]).args(filters);
    let listed = command.stdin(Stdio::null()).output().with_context(|| format!("run {}", program.display()))?;
    if !listed.status.success() {
        bail!("{} can't list its tests", program.display());
    }
    let names = String::from_utf8(listed.stdout)?;
    let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(|name| Slow { folder: folder.into(), program: program.into(), name: name.to_owned() }).collect())
}
