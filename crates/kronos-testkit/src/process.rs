//! Processes and folders of stores that belong to one test: killed, held up and started again, each by its own id.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::{authority::text, wait::unique};

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// Whether somebody listens there.
pub(crate) async fn listens(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}

/// A folder under the one for temporary files, removed at the end.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The user that the store becomes, as it refuses to run as root.
    user: Option<&'static str>,
}

impl Folder {
    /// A new one, which is the user's own if this process may give it away.
    pub(crate) fn new(name: &str, user: Option<&'static str>) -> Self {
        let path = std::env::temp_dir().join(unique(name));
        std::fs::create_dir(&path).expect("make a folder");
        let folder = Self { path, user: user.filter(|_| geteuid().is_root()) };
        folder.give(&folder.path);
        folder
    }

    /// A path in it, as text.
    pub(crate) fn at(&self, name: &str) -> String {
        text(&self.path.join(name))
    }

    /// Writes a file that the store may read; gives its path.
    pub(crate) fn write(&self, name: &str, contents: &str) -> String {
        let path = self.path.join(name);
        std::fs::write(&path, contents).expect("write a file");
        self.give(&path);
        text(&path)
    }

    /// A command that runs as the store's user, in the folder, with nothing of our environment but what it needs.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = match self.user {
            // It becomes the program in place: the pid stays.
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--init-groups", "--", program]);
                command
            }
            None => Command::new(program),
        };
        command.current_dir(&self.path).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        command.env("HOME", &self.path);
        command
    }

    /// The output of a command, which must succeed.
    pub(crate) fn run(&self, command: &mut Command) -> String {
        let output = command.output().expect("start a store's tool");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn give(&self, path: &Path) {
        if let Some(user) = self.user {
            let given = Command::new("chown").arg(user).arg(path).status();
            assert!(given.is_ok_and(|status| status.success()), "give {} to {user}", path.display());
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays is only litter.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A child of this process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts it; what it says goes to `log` in the folder.
    pub(crate) fn start(folder: &Folder, command: &mut Command, log: &str) -> Self {
        let file = File::options().create(true).append(true).open(folder.path.join(log)).expect("open a log");
        let errors = file.try_clone().expect("open a log");
        Self(command.stdout(file).stderr(errors).spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}")))
    }

    /// SIGSTOP: it stands still, its connections stay.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("signal our own child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL, which also ends one that stands still.
        self.0.kill().expect("kill our own child");
        self.0.wait().expect("reap our own child");
    }
}
