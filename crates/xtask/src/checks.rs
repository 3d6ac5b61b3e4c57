//! `test` and `ci`: everything that must be green before a change goes in.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    instance::{Instance, root},
    packages,
    phases::{Phases, run},
    progress::Progress,
    slow,
    stores::{self, TEST},
    tidy,
};

/// `ci` must end within the hour: so long after its beginning it begins no further slow test.
const LAST_SLOW_TEST: Duration = Duration::from_secs(45 * 60);

/// `cargo xtask test [--all] [-p PACKAGE] [FILTER…]`.
pub(crate) fn test(all: bool, package: Option<&str>, filters: &[String]) -> anyhow::Result<()> {
    let mut phases = Phases::new();
    let outcome = test_phases(&mut phases, all.then_some(Duration::MAX), package, filters);
    phases.report();
    outcome
}

/// `cargo xtask ci`.
pub(crate) fn ci() -> anyhow::Result<()> {
    let mut phases = Phases::new();
    let outcome = ci_phases(&mut phases);
    phases.report();
    outcome
}

fn ci_phases(phases: &mut Phases) -> anyhow::Result<()> {
    phases.run("packages", || packages::ensure(&Progress::new()))?;
    phases.run("format", || run(cargo()?.args(["fmt", "--all", "--check"])))?;
    phases.run("tidy", tidy::tidy)?;
    phases.run("clippy", || {
        run(cargo()?.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
    })?;
    if has_cargo_deny() {
        phases.run("deny", || run(cargo()?.args(["deny", "--log-level", "error", "check"])))?;
    }
    test_phases(phases, Some(LAST_SLOW_TEST), None, &[])
}

/// `slow`: the slow ones too, and until when one may begin, counted from the first phase on.
fn test_phases(
    phases: &mut Phases,
    slow: Option<Duration>,
    package: Option<&str>,
    filters: &[String],
) -> anyhow::Result<()> {
    let mut instance = Instance::lock(TEST)?;
    let (_, fresh) = phases.run("stores", || stores::ensure_test_stores(&instance, &Progress::new()))?;
    instance.unlock();

    let command = || -> anyhow::Result<Command> {
        let mut command = cargo()?;
        command.arg("test");
        match package {
            Some(package) => command.args(["--package", package]),
            None => command.arg("--workspace"),
        };
        Ok(command)
    };
    let mut outcome = phases
        .run("build", || run(command()?.args(["--quiet", "--no-run"])))
        .and_then(|()| phases.run("tests", || run(command()?.args(["--quiet", "--no-fail-fast", "--"]).args(filters))));
    if let (Ok(()), Some(until)) = (&outcome, slow) {
        outcome = slow::run_all(phases, command()?.arg("--no-run"), filters, until);
    }
    if fresh {
        phases.run("stop stores", || stores::stop_test_stores(&Instance::lock(TEST)?))?;
    }
    outcome
}

fn cargo() -> anyhow::Result<Command> {
    let mut command = Command::new("cargo");
    command.current_dir(root()?);
    Ok(command)
}

fn has_cargo_deny() -> bool {
    let mut command = Command::new("cargo");
    command.args(["deny", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
