//! The phases of `test` and `ci`: each named, timed, and the first failure named too.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// Runs phases one after the other and remembers how long each took.
pub(crate) struct Phases {
    begun: Instant,
    taken: Vec<(String, Duration)>,
}

impl Phases {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), taken: Vec::new() }
    }

    /// Since the first one.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        println!("── {name}");
        let started = Instant::now();
        let outcome = work();
        let taken = started.elapsed();
        self.taken.push((name.to_owned(), taken));
        outcome.with_context(|| format!("{name} failed after {}", seconds(taken)))
    }

    /// One line for each phase, and the sum.
    pub(crate) fn report(&self) {
        println!();
        let width = self.taken.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max("total".len());
        for (name, taken) in &self.taken {
            println!("  {name:<width$} {:>11}", seconds(*taken));
        }
        println!("  {:<width$} {:>11}", "total", seconds(self.elapsed()));
    }
}

fn seconds(time: Duration) -> String {
    let (minutes, rest) = (time.as_secs() / 60, time.as_secs_f64() % 60.0);
    if minutes == 0 { format!("{rest:.1} s") } else { format!("{minutes} min {rest:.0} s") }
}

/// Runs a command whose output the user sees.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = format!("{command:?}").replace('"', "");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("run {line}"))?;
    if !status.success() {
        let name = command.get_program().to_string_lossy().into_owned();
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        bail!("`{name} {}` ended with {status}", args.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_are_told_in_minutes() {
        assert_eq!(seconds(Duration::from_millis(2_340)), "2.3 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 5 s");
    }
}
