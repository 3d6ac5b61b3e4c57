//! Programs in Python that others' packages are driven by. Each has a virtual environment with its pinned packages.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// Runs a script of the folder `python` with `given` on its standard input, and panics unless it says `ok`. Gives all that
/// it said.
pub(crate) async fn run(name: &'static str, script: &'static str, requirements: &'static str, given: &Value) -> String {
    let given = given.to_string();
    let output = tokio::task::spawn_blocking(move || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
        let mut python = Command::new(python_with(name, requirements))
            .arg(script)
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
        python.wait_with_output().unwrap()
    })
    .await
    .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().ends_with("ok"), "{said}\n{complained}");
    said.into_owned()
}

/// The Python of a virtual environment with the pinned packages; made once, beside the workspace's other private things.
fn python_with(name: &str, requirements: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let venv = root.join(".kronos").join(name);
    let (python, mark) = (venv.join("bin/python3"), venv.join("requirements.txt"));
    // Written last: an installation that broke off is made anew.
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == requirements) {
        return python;
    }
    let _ = fs::remove_dir_all(&venv);
    fs::create_dir_all(venv.parent().unwrap()).unwrap();
    execute(
        "make a virtual environment (Debian's packages: python3 python3-venv)",
        Command::new("python3").args(["-m", "venv"]).arg(&venv),
    );
    let wanted = venv.join("wanted.txt");
    fs::write(&wanted, requirements).unwrap();
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--requirement"];
    execute("install the pinned packages from PyPI", Command::new(&python).args(pip).arg(wanted));
    fs::write(mark, requirements).unwrap();
    python
}

fn execute(what: &str, command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("could not {what}: {error}"));
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "could not {what}: {}\n{complained}", output.status);
}
