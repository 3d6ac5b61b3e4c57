//! What must be on the machine: Debian packages, installed where root or sudo allows it. Where neither does, the error
//! is the exact line to run.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::bail;

use crate::{process, progress::Progress};

/// A program or file, and the package that brings it.
struct Need {
    file: &'static str,
    package: &'static str,
}

const BUILD: &[Need] = &[
    Need { file: "/usr/bin/gcc", package: "gcc" },
    Need { file: "/usr/bin/g++", package: "g++" },
    Need { file: "/usr/bin/make", package: "make" },
    Need { file: "/usr/bin/cmake", package: "cmake" },
    Need { file: "/usr/bin/pkg-config", package: "pkg-config" },
    Need { file: "/usr/include/openssl/ssl.h", package: "libssl-dev" },
    Need { file: "/usr/include/zlib.h", package: "zlib1g-dev" },
];

const RUN: &[Need] = &[
    Need { file: "/usr/lib/postgresql/15/bin/postgres", package: "postgresql-15" },
    Need { file: "/usr/bin/redis-server", package: "redis-server" },
    Need { file: "/usr/lib/rabbitmq/bin/rabbitmq-server", package: "rabbitmq-server" },
    Need { file: "/usr/bin/javac", package: "openjdk-17-jdk-headless" },
    Need { file: "/usr/bin/mvn", package: "maven" },
    // For the gateway's rolling restart behind it.
    Need { file: "/usr/sbin/nginx", package: "nginx-core" },
    // For the end-to-end test of clients that others wrote.
    Need { file: "/usr/bin/python3", package: "python3" },
    Need { file: "/usr/lib/python3.11/ensurepip/__init__.py", package: "python3-venv" },
];

/// Debian's answer to "may this package start its service?", read by every package's installation script: 101 is no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Makes sure that everything is installed.
///
/// # Errors
/// With the line to run, if something is missing and neither root nor sudo is at hand.
pub(crate) fn ensure(progress: &Progress) -> anyhow::Result<()> {
    let needs: Vec<&Need> = BUILD.iter().chain(RUN).collect();
    let missing = missing(&needs, |file| Path::new(file).exists());
    if missing.is_empty() {
        return Ok(());
    }
    progress.step("packages", |said| {
        said.say(format!("installing {}", missing.join(" ")));
        install(&missing)
    })
}

fn missing<'a>(needs: &[&'a Need], exists: impl Fn(&str) -> bool) -> Vec<&'a str> {
    needs.iter().filter(|need| !exists(need.file)).map(|need| need.package).collect()
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    let line = format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("these Debian packages are missing, and there is no apt-get here: {}", packages.join(" "));
    }
    let sudo = if process::is_root() {
        false
    } else if succeeds(Command::new("sudo").args(["-n", "true"])) {
        true
    } else {
        bail!("packages are missing; run this as root, then try again:\n  {line}");
    };
    // Debian starts a service as soon as it is installed; ours are private instances, so none of those is wanted.
    let guard = format!(
        "set -e; p={POLICY}; if [ ! -e $p ]; then printf '#!/bin/sh\\nexit 101\\n' > $p; chmod 755 $p; trap 'rm -f $p' EXIT; fi; \
         export DEBIAN_FRONTEND=noninteractive; {line}"
    );
    let mut command = if sudo {
        let mut command = Command::new("sudo");
        command.args(["-n", "sh", "-c", &guard]);
        command
    } else {
        let mut command = Command::new("sh");
        command.args(["-c", &guard]);
        command
    };
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        bail!("apt-get failed; try it by hand:\n  {line}\n{}", lines[lines.len().saturating_sub(8)..].join("\n"));
    }
    // A package may have been installed by an alternative name: what counts is that the files are there now.
    let needs: Vec<&Need> = BUILD.iter().chain(RUN).filter(|need| packages.contains(&need.package)).collect();
    let still = missing(&needs, |file| fs::metadata(file).is_ok());
    if !still.is_empty() {
        bail!("apt-get went through, and yet the files of {} are missing", still.join(" "));
    }
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named() {
        let needs: Vec<&Need> = RUN.iter().collect();
        assert!(missing(&needs, |_| true).is_empty());
        assert_eq!(missing(&needs, |file| file != "/usr/bin/mvn"), ["maven"]);
    }
}
