//! The threads that hash passwords: one of the operating system's own fewer than cores, of low priority, with a bounded queue and a
//! deadline. They take what others leave: under a flood of logins other requests keep their cores, memory stays flat, and who
//! cannot be served in time is told so at once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use kronos_common::{problem::Problem, service};
use prometheus::{Histogram, HistogramOpts, IntCounter};
use rustix::process::setpriority_process;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time,
};

use crate::{config, password::Hasher, telemetry};

/// What the caller is told to wait when there is no room.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Of a hashing thread: whatever waits for a core gets it within moments, about nine tenths of it for as long as it needs it.
const NICENESS: i32 = 10;

/// Hands passwords to the threads.
#[derive(Clone)]
pub(crate) struct Hashing {
    jobs: Sender<Job>,
    room: Arc<Semaphore>,
    deadline: Duration,
    shed: IntCounter,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    #[error("too many passwords wait to be checked")]
    Overloaded,
    #[error("a password could not be hashed")]
    Failed(#[source] anyhow::Error),
}

impl From<HashError> for Problem {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Overloaded => Self::unavailable("password check", RETRY_AFTER),
            HashError::Failed(cause) => Self::internal(cause),
        }
    }
}

/// What was found out about a password.
#[derive(Debug)]
pub(crate) struct Verified {
    pub correct: bool,
    /// If it is correct and its stored hash has outdated parameters: the hash to store instead.
    pub rehashed: Option<String>,
}

/// One of the places before the threads. Who has none is refused before anything is asked for their sake.
pub(crate) struct Place(OwnedSemaphorePermit);

struct Job {
    _place: OwnedSemaphorePermit,
    password: SecretString,
    deadline: Instant,
    task: Task,
}

enum Task {
    Hash(oneshot::Sender<anyhow::Result<String>>),
    /// Without a stored hash the dummy is used, and the answer is no.
    Verify(Option<String>, oneshot::Sender<anyhow::Result<Verified>>),
}

impl Hashing {
    /// Starts the threads; they end when the last clone of this is dropped.
    ///
    /// # Errors
    /// Parameters that argon2 does not allow, or no threads.
    pub(crate) fn start(config: &config::Passwords, context: &service::Context) -> anyhow::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = if config.threads == 0 { (cores - 1).max(1) } else { config.threads };
        let (sender, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let seconds = HistogramOpts::new(telemetry::PASSWORD_HASH_SECONDS, "Seconds that one password hash takes")
            .buckets(vec![0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28]);
        let seconds = context.register(Histogram::with_opts(seconds).context("describe the hash histogram")?);
        let shed = IntCounter::new(telemetry::PASSWORD_HASHES_SHED, "Password hashes refused: no room or too late")
            .context("describe the shed counter")?;
        let mut hasher = Hasher::new(config)?;
        let dummy: Arc<str> = hasher.dummy()?.into();
        for index in 0..threads {
            let mut worker = Worker {
                hasher: Hasher::new(config)?,
                dummy: Arc::clone(&dummy),
                jobs: Arc::clone(&receiver),
                seconds: seconds.clone(),
            };
            thread::Builder::new()
                .name(format!("argon2-{index}"))
                .spawn(move || worker.run())
                .context("start a hashing thread")?;
        }
        let deadline = Duration::from_millis(config.deadline_ms);
        let room = Arc::new(Semaphore::new(config.queue + threads));
        Ok(Self { jobs: sender, room, deadline, shed: context.register(shed) })
    }

    /// A PHC string of a new password.
    ///
    /// # Errors
    /// No room, or no time.
    pub(crate) async fn hash(&self, password: SecretString) -> Result<String, HashError> {
        let (reply, answer) = oneshot::channel();
        self.submit(self.place()?, password, Task::Hash(reply), answer).await
    }

    /// Takes a place for [`Hashing::verify`]: to be done first, so that a flood costs next to nothing.
    ///
    /// # Errors
    /// No room.
    pub(crate) fn place(&self) -> Result<Place, HashError> {
        Arc::clone(&self.room).try_acquire_owned().map(Place).map_err(|_| self.refuse())
    }

    /// Whether `phc` is the password's; without one, as long a time for a no.
    ///
    /// # Errors
    /// No time.
    pub(crate) async fn verify(
        &self,
        place: Place,
        password: SecretString,
        phc: Option<String>,
    ) -> Result<Verified, HashError> {
        let (reply, answer) = oneshot::channel();
        self.submit(place, password, Task::Verify(phc, reply), answer).await
    }

    async fn submit<T>(
        &self,
        place: Place,
        password: SecretString,
        task: Task,
        answer: oneshot::Receiver<anyhow::Result<T>>,
    ) -> Result<T, HashError> {
        let job = Job { _place: place.0, password, deadline: Instant::now() + self.deadline, task };
        if self.jobs.send(job).is_err() {
            return Err(HashError::Failed(anyhow::anyhow!("the hashing threads are gone")));
        }
        match time::timeout(self.deadline, answer).await {
            Ok(Ok(result)) => result.map_err(HashError::Failed),
            // The thread dropped it as too late, or it was still waiting.
            Ok(Err(_)) | Err(_) => Err(self.refuse()),
        }
    }

    fn refuse(&self) -> HashError {
        self.shed.inc();
        HashError::Overloaded
    }
}

struct Worker {
    hasher: Hasher,
    dummy: Arc<str>,
    jobs: Arc<Mutex<Receiver<Job>>>,
    seconds: Histogram,
}

impl Worker {
    fn run(&mut self) {
        // On Linux a priority is a thread's own.
        if let Err(error) = setpriority_process(None, NICENESS) {
            tracing::warn!(%error, "passwords are hashed at the priority of everything else");
        }
        loop {
            let job = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            if Instant::now() >= job.deadline {
                continue;
            }
            let _timer = self.seconds.start_timer();
            let password = job.password.expose_secret().as_bytes();
            // A caller that is gone does not need the answer.
            match job.task {
                Task::Hash(reply) => drop(reply.send(self.hasher.hash(password))),
                Task::Verify(phc, reply) => drop(reply.send(self.verify(password, phc.as_deref()))),
            }
        }
    }

    fn verify(&mut self, password: &[u8], phc: Option<&str>) -> anyhow::Result<Verified> {
        let correct = self.hasher.verify(password, phc.unwrap_or(&self.dummy))? && phc.is_some();
        let rehashed = match phc {
            Some(phc) if correct && self.hasher.is_outdated(phc) => Some(self.hasher.hash(password)?),
            _ => None,
        };
        Ok(Verified { correct, rehashed })
    }
}
