//! One TLS and crypto provider in the whole tree: what `deny.toml` bans of the others is looked for in Cargo's own tree,
//! so that the rule holds where cargo-deny is not installed.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::Violation;
use crate::instance::root;

/// A crate, who alone may bring it, and what to use instead.
const BANNED: [(&str, &[&str], &str); 5] = [
    ("ring", &[], "aws-lc-rs is the one crypto provider: choose that feature of the crate that brings it"),
    ("native-tls", &[], "rustls is the one TLS stack: choose that feature of the crate that brings it"),
    ("openssl", &[], "rustls is the one TLS stack: choose that feature of the crate that brings it"),
    ("openssl-sys", &["rdkafka-sys"], "only librdkafka may bring it"),
    ("rsa", &[], "it has an advisory that is not mended: use aws-lc-rs"),
];

pub(super) fn check(violations: &mut Vec<Violation>) -> anyhow::Result<()> {
    let tree = tree()?;
    for (name, wrappers, instead) in BANNED {
        for parent in parents(&tree, name) {
            if !wrappers.contains(&parent.as_str()) {
                let message = format!("{name} comes into the tree by {parent}: {instead}");
                violations.push(Violation { path: "Cargo.toml".to_owned(), line: 1, message });
            }
        }
    }
    Ok(())
}

/// The tree of every crate that is compiled here, each line `DEPTH name version`; a repeated branch is cut short.
fn tree() -> anyhow::Result<String> {
    let output = Command::new("cargo")
        .args(["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "depth", "--format", " {p}"])
        .current_dir(root()?)
        .stdin(Stdio::null())
        .output()
        .context("run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Who depends on `name` directly, each once.
fn parents(tree: &str, name: &str) -> Vec<String> {
    let mut above: Vec<&str> = Vec::new();
    let mut found: Vec<String> = Vec::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        let (Some(Ok(depth)), Some(package)) = (words.next().map(str::parse::<usize>), words.next()) else { continue };
        above.truncate(depth);
        if package == name
            && let Some(parent) = above.last()
            && !found.iter().any(|known| known == parent)
        {
            found.push((*parent).to_owned());
        }
        above.push(package);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_crate_is_found_with_the_one_that_brings_it() {
        let tree = "0 auth-service v0.1.0 (x)\n1 rustls v0.23\n2 ring v0.17\n1 sqlx v0.9\n2 rustls v0.23\n3 ring v0.17\n1 string v1\n";
        assert_eq!(parents(tree, "ring"), ["rustls"]);
        assert!(parents(tree, "openssl").is_empty());
    }
}
