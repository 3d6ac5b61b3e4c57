//! An instance: one private platform or set of stores under `.kronos/NAME`, with its processes, secrets and data.
//! It knows files only; what runs in it is decided by others.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde::{Serialize, de::DeserializeOwned};

use crate::process::{self, Process};

/// The workspace's root folder: the nearest one above the current folder that holds this crate.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("read the current folder")?;
    let Some(root) = here.ancestors().find(|dir| dir.join("crates/xtask/Cargo.toml").is_file()) else {
        bail!("{} is not inside a clone of Kronos", here.display());
    };
    Ok(root.to_owned())
}

/// Downloads that every instance shares, and that outlive them.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let cache = root()?.join(".kronos/cache");
    fs::create_dir_all(&cache)?;
    Ok(cache)
}

pub(crate) struct Instance {
    pub(crate) dir: PathBuf,
    processes: Mutex<Vec<Process>>,
    /// Held for as long as this value lives; absent for those who only look.
    lock: Option<File>,
}

impl Instance {
    /// Opens the instance to change it. Waits while another command does.
    pub(crate) fn lock(name: &str) -> anyhow::Result<Self> {
        let dir = root()?.join(".kronos").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        // Beside the cache, since the folder itself comes and goes.
        let path = cache()?.join(format!("{name}.lock"));
        let lock = File::options().create(true).append(true).open(&path)?;
        if lock.try_lock().is_err() {
            eprintln!("waiting for another `cargo xtask` that works on {} …", dir.display());
            lock.lock().with_context(|| format!("lock {}", path.display()))?;
        }
        let mut instance = Self::look(name)?;
        instance.lock = Some(lock);
        Ok(instance)
    }

    /// Opens the instance to read from it.
    pub(crate) fn look(name: &str) -> anyhow::Result<Self> {
        let dir = root()?.join(".kronos").join(name);
        let processes = read_json(&dir.join("processes.json"))?.unwrap_or_default();
        Ok(Self { dir, processes: Mutex::new(processes), lock: None })
    }

    /// Whether another command is working on the instance at this moment.
    pub(crate) fn is_busy(name: &str) -> anyhow::Result<bool> {
        let path = cache()?.join(format!("{name}.lock"));
        Ok(File::options().create(true).append(true).open(path)?.try_lock().is_err())
    }

    /// Lets other commands work on the instance, while this one goes on looking.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }

    pub(crate) fn logs(&self) -> anyhow::Result<PathBuf> {
        let logs = self.dir.join("logs");
        fs::create_dir_all(&logs)?;
        Ok(logs)
    }

    /// The processes that were started and are still alive.
    pub(crate) fn alive(&self) -> Vec<Process> {
        let processes = self.processes.lock().expect("nobody panics while holding it");
        processes.iter().filter(|process| process.is_alive()).cloned().collect()
    }

    /// All that were started, dead ones too.
    pub(crate) fn known(&self) -> Vec<Process> {
        self.processes.lock().expect("nobody panics while holding it").clone()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Process> {
        self.alive().into_iter().find(|process| process.name == name)
    }

    /// Remembers a process on disk before anything else can happen, so that it is never left behind.
    pub(crate) fn remember(&self, process: Process) -> anyhow::Result<()> {
        let mut processes = self.processes.lock().expect("nobody panics while holding it");
        processes.retain(|known| known.name != process.name);
        processes.push(process);
        write_json(&self.dir.join("processes.json"), &*processes)
    }

    /// Ends the named processes, or all of them, and forgets them.
    pub(crate) fn stop(&self, which: impl Fn(&Process) -> bool, deadline: Duration) -> anyhow::Result<Vec<String>> {
        let (ending, staying): (Vec<_>, Vec<_>) = self.known().into_iter().partition(which);
        let killed = process::stop_all(&ending, deadline);
        let mut processes = self.processes.lock().expect("nobody panics while holding it");
        *processes = staying;
        if self.dir.exists() {
            write_json(&self.dir.join("processes.json"), &*processes)?;
        }
        Ok(killed)
    }

    /// The folder for one store's data, owned by the service user if that is whom the store will run as.
    ///
    /// A service user cannot pass through a closed folder above the clone, such as `/root`: then the data lies
    /// under `/var/tmp`, and a link here leads to it.
    pub(crate) fn data_dir(&self, store: &str, user: Option<&str>) -> anyhow::Result<PathBuf> {
        let here = self.dir.join("data").join(store);
        let user = user.filter(|_| process::is_root());
        let dir = if user.is_some() && !others_may_pass(&self.dir) {
            let place = self.open_place();
            fs::create_dir_all(&place)?;
            // Anybody may write beside it: another user could have been there first, and would read along.
            let meta = fs::symlink_metadata(&place)?;
            ensure!(meta.is_dir() && meta.uid() == 0, "{} is not root's: look at it, and remove it", place.display());
            let elsewhere = place.join(store);
            fs::create_dir_all(&elsewhere)?;
            fs::create_dir_all(self.dir.join("data"))?;
            if fs::symlink_metadata(&here).is_err() {
                std::os::unix::fs::symlink(&elsewhere, &here)?;
            }
            elsewhere
        } else {
            fs::create_dir_all(&here)?;
            here
        };
        // Passwords are in there.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        if let Some(user) = user {
            give_to(&dir, user)?;
        }
        Ok(dir)
    }

    /// Removes everything that the instance has written.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        for dir in [self.open_place(), self.dir.clone()] {
            if dir.exists() {
                fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
            }
        }
        Ok(())
    }

    /// Where data goes that a service user could not reach here.
    fn open_place(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.dir.hash(&mut hasher);
        PathBuf::from(format!("/var/tmp/kronos-{:016x}", hasher.finish()))
    }
}

/// Gives a folder or file to a service user, whose own it then is alone.
pub(crate) fn give_to(path: &Path, user: &str) -> anyhow::Result<()> {
    let (uid, gid) = process::user_ids(user).with_context(|| format!("there is no user {user}"))?;
    chown(path, Some(uid), Some(gid)).with_context(|| format!("give {} to {user}", path.display()))
}

/// Whether any user may pass through this folder and those above it.
fn others_may_pass(dir: &Path) -> bool {
    dir.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}

/// Generated passwords and keys, kept in one file that only its owner may read.
pub(crate) struct Secrets {
    path: PathBuf,
    values: Mutex<BTreeMap<String, String>>,
}

impl Secrets {
    pub(crate) fn open(instance: &Instance) -> anyhow::Result<Self> {
        let path = instance.dir.join("secrets.json");
        let values = Mutex::new(read_json(&path)?.unwrap_or_default());
        Ok(Self { path, values })
    }

    /// The secret of this name; 24 random bytes in hexadecimal, made at first use.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<String> {
        self.get_or(name, || {
            let mut text = String::new();
            for byte in random::<24>()? {
                text += &format!("{byte:02x}");
            }
            Ok(text)
        })
    }

    /// The secret of this name; `make` is asked for it at first use.
    pub(crate) fn get_or(&self, name: &str, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
        let mut values = self.values.lock().expect("nobody panics while holding it");
        if let Some(value) = values.get(name) {
            return Ok(value.clone());
        }
        let value = make()?;
        values.insert(name.to_owned(), value.clone());
        write_json(&self.path, &*values)?;
        Ok(value)
    }
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// `None` if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("write {}", temporary.display()))?;
    file.write_all(&bytes)?;
    fs::rename(&temporary, path).with_context(|| format!("write {}", path.display()))
}
