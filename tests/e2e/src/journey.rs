//! The journey that proves the platform: accounts, the two sequences of the seed documents, messages that fail and come
//! back, logs, data, limits. Every step checks what it says; each run has names of its own, so that it can be repeated.

mod access;
mod data;
mod limits;
mod logs;
mod messages;

use std::{future::Future, time::Duration};

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::api::{Api, Target};

/// How long the platform may take to show what was just done, where no step says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hears the story: a chapter's title, or a line about what was just seen.
pub enum Told<'a> {
    /// A new chapter.
    Chapter(&'a str),
    /// Something that was done and checked.
    Done(&'a str),
}

/// One run of the journey.
pub struct Journey<'a> {
    target: &'a Target,
    admin: Api,
    /// Ends the names of this run.
    run: String,
    begun: chrono::DateTime<chrono::Utc>,
    tell: &'a mut (dyn FnMut(Told<'_>) + Send),
}

/// Plays all chapters in order.
///
/// # Errors
/// The first thing that was not as it should be.
pub async fn play(target: &Target, tell: &mut (dyn FnMut(Told<'_>) + Send)) -> anyhow::Result<()> {
    let admin = Api::administrator(target).await.context("the administrator logs in")?;
    let run = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
    let mut journey = Journey { target, admin, run, begun: chrono::Utc::now(), tell };
    journey.access().await.context("people and access")?;
    journey.messages().await.context("messages")?;
    journey.logs().await.context("logs")?;
    journey.data().await.context("cache and database")?;
    journey.limits().await.context("limits")
}

impl Journey<'_> {
    fn chapter(&mut self, title: &str) {
        (self.tell)(Told::Chapter(title));
    }

    fn done(&mut self, line: impl AsRef<str>) {
        (self.tell)(Told::Done(line.as_ref()));
    }

    fn name(&self, what: &str) -> String {
        format!("demo-{what}-{}", self.run)
    }
}

/// Asks until the answer is there; `what` is what is waited for. Gives the answer and how long it took.
async fn eventually<T, F>(what: &str, patience: Duration, mut ask: impl FnMut() -> F) -> anyhow::Result<(T, Duration)>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let begun = Instant::now();
    loop {
        if let Some(found) = ask().await? {
            return Ok((found, begun.elapsed()));
        }
        anyhow::ensure!(begun.elapsed() < patience, "{what}: not seen within {patience:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
