//! Processes that outlive this one: started in a group of their own with a log file, remembered by pid and start time,
//! ended exactly. Nothing here looks a process up by name.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::pause;

/// What to start.
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// The whole environment beside PATH, HOME and LANG: nothing else of ours leaks in.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: PathBuf,
    /// A service user to become when we are root, because the program refuses root.
    pub(crate) user: Option<&'static str>,
    pub(crate) log: PathBuf,
    pub(crate) stop: Stop,
}

/// How a process is asked to end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stop {
    Terminate,
    /// PostgreSQL: SIGTERM would wait for its clients to leave.
    Interrupt,
}

/// A process that was started, as it is remembered in `processes.json`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// Clock ticks after boot at which it started: with the pid this names one process for ever.
    pub(crate) started: u64,
    pub(crate) log: PathBuf,
    pub(crate) stop: Stop,
}

impl Process {
    pub(crate) fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !stat.ended)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
            && self.is_alive()
        {
            // It may have ended since: then there is nothing to do.
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends what the process left in its group.
    fn kill_group(&self) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Starts it; the child keeps running when this process ends.
pub(crate) fn spawn(spec: &Spec) -> anyhow::Result<(Process, Child)> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("open the log {}", spec.log.display()))?;
    let mut command = match spec.user.filter(|_| is_root()) {
        Some(user) => {
            // Becomes the program in place: the pid stays.
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--init-groups", "--"]).arg(&spec.program);
            command
        }
        None => Command::new(&spec.program),
    };
    command.args(&spec.args).env_clear();
    for (key, value) in std::env::vars_os() {
        if ["PATH", "HOME", "LANG", "JAVA_HOME"].iter().any(|kept| key == *kept) {
            command.env(key, value);
        }
    }
    command.envs(&spec.env).current_dir(&spec.dir).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = command.spawn().with_context(|| format!("start {} ({})", spec.name, spec.program.display()))?;
    let started = stat(child.id()).map_or(0, |stat| stat.started);
    let process = Process { name: spec.name.clone(), pid: child.id(), started, log: spec.log.clone(), stop: spec.stop };
    Ok((process, child))
}

/// Polls `ready` until it says yes; fails with the end of the log when the process ends or `deadline` passes.
pub(crate) fn wait_ready(
    process: &Process,
    child: &mut Child,
    deadline: Duration,
    mut ready: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        if ready() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("{} ended ({status}) before it was ready{}", process.name, log_excerpt(&process.log));
        }
        if started.elapsed() > deadline {
            bail!("{} was not ready after {} s{}", process.name, deadline.as_secs(), log_excerpt(&process.log));
        }
        pause(Duration::from_millis(40));
    }
}

/// Ends these processes and no others, all at once: asks, waits up to `deadline`, then kills. Returns those it had to kill.
pub(crate) fn stop_all(processes: &[Process], deadline: Duration) -> Vec<String> {
    for process in processes {
        process.signal(match process.stop {
            Stop::Terminate => Signal::TERM,
            Stop::Interrupt => Signal::INT,
        });
    }
    let started = Instant::now();
    while processes.iter().any(Process::is_alive) && started.elapsed() < deadline {
        pause(Duration::from_millis(20));
    }
    let late: Vec<&Process> = processes.iter().filter(|process| process.is_alive()).collect();
    for process in &late {
        process.signal(Signal::KILL);
    }
    while late.iter().any(|process| process.is_alive()) && started.elapsed() < deadline + Duration::from_secs(5) {
        pause(Duration::from_millis(20));
    }
    processes.iter().for_each(Process::kill_group);
    late.iter().map(|process| process.name.clone()).collect()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

struct Stat {
    started: u64,
    /// A zombie: it has ended, but its parent has not asked yet.
    ended: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads state and start time out of `/proc/PID/stat`, whose second column may hold spaces and brackets.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut columns = rest.split_whitespace();
    let state = columns.next()?;
    let started = columns.nth(18)?.parse().ok()?;
    Some(Stat { started, ended: matches!(state, "Z" | "X" | "x") })
}

/// The last lines of a log, indented, and where it is: for the end of an error message.
pub(crate) fn log_excerpt(log: &Path) -> String {
    let lines = tail(log, 12).unwrap_or_default();
    let mut text = String::new();
    for line in lines {
        let line: String = line.chars().take(300).collect();
        text += &format!("\n    {line}");
    }
    format!("{text}\n  its log: {}", log.display())
}

/// The last `count` lines of a file; reads no more than its last 64 KiB.
pub(crate) fn tail(path: &Path, count: usize) -> anyhow::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(64 * 1024)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(count)..].iter().map(|&line| line.to_owned()).collect())
}

/// User and group id of a system user, from `/etc/passwd`.
pub(crate) fn user_ids(name: &str) -> Option<(u32, u32)> {
    parse_passwd(&fs::read_to_string("/etc/passwd").ok()?, name)
}

fn parse_passwd(text: &str, name: &str) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_confuse_the_stat_line() {
        let fields: Vec<String> = (4..=52).map(|column| column.to_string()).collect();
        let stat = parse_stat(&format!("77 (a) b) Z {}", fields.join(" "))).unwrap();
        assert!(stat.ended);
        assert_eq!(stat.started, 22);
        assert!(!parse_stat(&format!("77 (x) S {}", fields.join(" "))).unwrap().ended);
    }

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let text = "postgres2:x:1:2::/:/bin/sh\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(parse_passwd(text, "postgres"), Some((101, 104)));
        assert_eq!(parse_passwd(text, "rabbitmq"), None);
    }

    #[test]
    fn a_process_that_ignores_the_polite_signal_is_killed_and_its_group_with_it() {
        let dir = std::env::temp_dir();
        let log = dir.join(format!("kronos-xtask-{}.log", std::process::id()));
        let spec = Spec {
            name: "stubborn".into(),
            program: "sh".into(),
            args: vec!["-c".into(), "trap '' TERM; sleep 60 & echo ready; wait; sleep 60".into()],
            env: BTreeMap::new(),
            dir,
            user: None,
            log: log.clone(),
            stop: Stop::Terminate,
        };
        let (process, mut child) = spawn(&spec).unwrap();
        wait_ready(&process, &mut child, Duration::from_secs(5), || {
            tail(&log, 1).is_ok_and(|lines| lines == ["ready"])
        })
        .unwrap();
        assert!(process.is_alive());
        assert_eq!(stop_all(std::slice::from_ref(&process), Duration::from_millis(100)), ["stubborn"]);
        assert!(!process.is_alive());
        let other = Process { started: process.started + 1, pid: std::process::id(), ..process };
        assert!(!other.is_alive(), "a process with a reused pid is another process");
        fs::remove_file(log).unwrap();
    }
}
