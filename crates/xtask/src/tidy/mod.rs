//! `tidy`: the rules of CONTRIBUTING.md as code. Each rule reads the files that git knows or would add, and says for
//! every violation where it is and what to do.

mod dependencies;
mod files;
mod imports;
mod manifests;
mod migrations;
mod names;

use std::{fmt, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, bail};

use crate::instance::root;

/// One file of the repository that is text.
pub(crate) struct SourceFile {
    /// From the root, with `/`.
    path: String,
    text: String,
}

/// A rule that is broken at one place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    /// From 1.
    line: usize,
    message: String,
}

impl Violation {
    fn new(file: &SourceFile, line: usize, message: impl Into<String>) -> Self {
        Self { path: file.path.clone(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// `cargo xtask tidy`.
pub(crate) fn tidy() -> anyhow::Result<()> {
    let root = root()?;
    let files = read_all(&root)?;
    let mut violations = Vec::new();
    for file in &files {
        files::check(file, &root.display().to_string(), &mut violations);
        manifests::check(file, &mut violations);
        imports::check(file, &mut violations);
        migrations::check(file, &mut violations);
    }
    names::check(&files, &mut violations);
    dependencies::check(&mut violations)?;
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    if violations.is_empty() {
        println!("{} files are tidy", files.len());
        Ok(())
    } else {
        bail!("{} places are not tidy", violations.len())
    }
}

fn read_all(root: &PathBuf) -> anyhow::Result<Vec<SourceFile>> {
    let list = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("run git")?;
    if !list.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&list.stderr).trim());
    }
    let mut files = Vec::new();
    for path in String::from_utf8(list.stdout)?.split('\0').filter(|path| !path.is_empty()) {
        // Not text, or removed and not yet committed: nothing to read.
        if let Ok(text) = fs::read_to_string(root.join(path)) {
            files.push(SourceFile { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

/// The words of a text that look like `prefix…`, of letters, digits and `_`, with their offsets.
fn words_with_prefix<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.match_indices(prefix).filter_map(move |(start, _)| {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let begins = !text[..start].chars().next_back().is_some_and(is_word);
        let length = text[start..].find(|c| !is_word(c)).unwrap_or(text.len() - start);
        begins.then_some((start, &text[start..start + length]))
    })
}

#[cfg(test)]
fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}
