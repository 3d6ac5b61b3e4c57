//! Cargo, run as a step: its own progress is shown in one line, its errors whole.

use std::{
    io::{BufReader, Read},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, bail};

use crate::{instance::root, progress::Said};

/// Builds the seven services, optimised; returns the folder of the binaries.
pub(crate) fn build_services(said: &Said, stop: &AtomicBool) -> anyhow::Result<PathBuf> {
    // The programs of tests/e2e would be built for nothing; they bring no feature that the services do not have, so
    // that building them later builds nothing again.
    build(
        &["build", "--release", "--workspace", "--exclude", "xtask", "--exclude", "kronos-e2e", "--bins"],
        said,
        stop,
    )?;
    Ok(root()?.join("target/release"))
}

/// Builds the programs of `tests/e2e` too.
pub(crate) fn build_programs(said: &Said, stop: &AtomicBool) -> anyhow::Result<PathBuf> {
    build(&["build", "--release", "--workspace", "--exclude", "xtask", "--bins"], said, stop)?;
    Ok(root()?.join("target/release"))
}

/// Builds the binaries, all of them, so that dependencies get the features that the tests need too and are built once;
/// returns the binary of database-admin.
pub(crate) fn build_database_admin(said: &Said, stop: &AtomicBool) -> anyhow::Result<PathBuf> {
    build(&["build", "--workspace", "--bins"], said, stop)?;
    Ok(root()?.join("target/debug/database-admin"))
}

/// Runs a building cargo command and shows how far it is.
///
/// # Errors
/// With what the compiler said, if it fails; when `stop` becomes true, cargo is ended.
pub(crate) fn build(args: &[&str], said: &Said, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut child = Command::new("cargo")
        .args(args)
        .current_dir(root()?)
        .env("CARGO_TERM_PROGRESS_WHEN", "always")
        .env("CARGO_TERM_PROGRESS_WIDTH", "120")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run cargo")?;
    let output = child.stderr.take().expect("it is piped");
    let mut kept = Vec::new();
    let mut stopped = false;
    for_each_line(output, |line| {
        match progress_of(line) {
            Some(progress) => said.say(progress),
            None if line.trim().is_empty() => {}
            None => kept.push(line.to_owned()),
        }
        stopped = stop.load(Ordering::Relaxed);
        !stopped
    });
    if stopped {
        // It may have ended by the same Ctrl-C.
        let _ = child.kill();
    }
    let status = child.wait()?;
    if stopped {
        bail!("stopped");
    }
    if !status.success() {
        let errors = kept.join("\n");
        bail!("cargo {} failed:\n{}", args.join(" "), tail_of(&errors, 12_000));
    }
    said.say("");
    Ok(())
}

/// The end of a long text, from a line's beginning.
fn tail_of(text: &str, most: usize) -> &str {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    match text[start..].find('\n') {
        Some(newline) if start > 0 => &text[start + newline + 1..],
        _ => &text[start..],
    }
}

/// Lines end with a newline or, where cargo redraws one, a carriage return. Ends early when `each` says no.
fn for_each_line(from: impl Read, mut each: impl FnMut(&str) -> bool) {
    let mut line = Vec::new();
    for byte in BufReader::new(from).bytes() {
        match byte {
            Ok(b'\n' | b'\r') => {
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                if !each(&text) {
                    return;
                }
            }
            Ok(byte) => line.push(byte),
            Err(_) => break,
        }
    }
    if !line.is_empty() {
        each(&String::from_utf8_lossy(&line));
    }
}

/// What is worth showing of a line that cargo redraws: `Building [===> ] 12/345: serde, tokio` is `12/345 serde, tokio`.
fn progress_of(line: &str) -> Option<String> {
    let line = line.trim_start_matches("\x1b[K").trim();
    let verbs = ["Compiling ", "Downloading ", "Downloaded ", "Updating ", "Blocking ", "Locking ", "Finished "];
    if let Some((_, counted)) = line.strip_prefix("Building [").and_then(|rest| rest.split_once("] ")) {
        return Some(counted.replacen(':', "", 1).trim_end().to_owned());
    }
    verbs.iter().any(|verb| line.starts_with(verb)).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_shown_as_numbers_and_errors_are_kept() {
        assert_eq!(progress_of("    Building [====>   ] 12/345: serde, tokio").unwrap(), "12/345 serde, tokio");
        assert_eq!(progress_of("   Compiling serde v1.0.0").unwrap(), "Compiling serde v1.0.0");
        assert_eq!(progress_of("error[E0599]: no method named `x`"), None);
    }

    #[test]
    fn redrawn_lines_are_told_apart() {
        let mut lines = Vec::new();
        for_each_line("a\rb\nc".as_bytes(), |line| {
            lines.push(line.to_owned());
            true
        });
        assert_eq!(lines, ["a", "b", "c"]);
    }

    #[test]
    fn the_end_of_a_long_text_starts_at_a_line() {
        assert_eq!(tail_of("first\nsecond\nthird", 9), "third");
        assert_eq!(tail_of("short", 100), "short");
    }
}
