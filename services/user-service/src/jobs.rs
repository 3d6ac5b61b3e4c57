//! What happens without a request: assignments that end, and the first administrator.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use chrono::Utc;
use kronos_common::{name, problem::Problem};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    App,
    changes::{self, Change},
    config::FirstAdministrator,
    rights::Assignment,
    roles::{ADMINISTRATOR, EVERYTHING, PermissionPattern, RoleDefinition},
    scim::Document,
    store,
    users::{DisplayName, NewUser},
};

/// Pauses between attempts to reach auth-service.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How often to look for what another instance has left.
const FAN_OUT_EVERY: Duration = Duration::from_secs(10);

/// How often to look for what can be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);

/// Takes away each assignment when its time is over.
pub(crate) async fn expire(app: App, shutdown: CancellationToken) {
    let mut failing = false;
    loop {
        match expire_once(&app).await {
            Ok(more) => {
                failing = false;
                if more {
                    continue;
                }
            }
            Err(problem) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %chain(&problem), "assignments that have ended are not taken away yet");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(until_next_end(&app).await) => {}
            () = app.ends_changed.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Forgets what ended long ago.
pub(crate) async fn forget(app: App, shutdown: CancellationToken) {
    loop {
        if let Err(problem) = store::assignments::forget_ended(&app.pool, app.settings.keep_ended_days).await {
            tracing::warn!(error = %chain(&problem), "what ended long ago is not forgotten yet");
        }
        tokio::select! {
            () = tokio::time::sleep(FORGET_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn expire_once(app: &App) -> Result<bool, Problem> {
    let now = Utc::now();
    let people = changes::assignments::expire(app, now).await?;
    Ok(changes::group_assignments::expire(app, now).await? || people)
}

/// Names the holders of roles that have changed and that many people hold, for their tokens that name no roles.
pub(crate) async fn fan_out(app: App, shutdown: CancellationToken) {
    loop {
        let pause = match changes::roles::fan_out(&app).await {
            Ok(true) => continue,
            Ok(false) => FAN_OUT_EVERY,
            Err(problem) => {
                tracing::warn!(error = %chain(&problem), "the holders of a changed role are not named yet");
                PAUSE.1
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = app.fanout_left.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Seals attributes again that hang on an older key; ends when there are none left.
pub(crate) async fn reseal(app: App, shutdown: CancellationToken) {
    let mut after = Uuid::nil();
    while !shutdown.is_cancelled() {
        match changes::users::reseal(&app, after).await {
            Ok(Some(last)) => after = last,
            Ok(None) => return,
            Err(problem) => {
                tracing::warn!(error = %chain(&problem), "attributes are not sealed under the active key yet");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE.1) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }
}

/// Carries out imports, and cleans up behind them.
pub(crate) async fn import(app: App, shutdown: CancellationToken) {
    loop {
        let done = async {
            while changes::imports::carry_out(&app).await? {}
            changes::imports::clean(&app).await
        };
        let done = tokio::select! {
            done = done => done,
            // What is under way is rolled back, or goes on elsewhere behind the last thousand.
            () = shutdown.cancelled() => return,
        };
        if let Err(problem) = done {
            tracing::warn!(error = %chain(&problem), "an import does not go on now");
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE.1) => {}
            () = app.import_waits.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Has every service forget those who are erased.
pub(crate) async fn erase(app: App, shutdown: CancellationToken) {
    loop {
        let pause = match changes::privacy::carry_out(&app).await {
            Ok(true) => continue,
            Ok(false) => match store::privacy::next_ms(&app.pool).await {
                Ok(Some(next)) => {
                    Duration::from_secs_f64(next.max(0.0) / 1_000.0).clamp(Duration::from_millis(10), PAUSE.1)
                }
                Ok(None) | Err(_) => PAUSE.1,
            },
            Err(problem) => {
                tracing::warn!(error = %chain(&problem), "an erasure does not go on now");
                PAUSE.1
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = app.erasure_waits.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Until the next known end; but another instance may write an earlier one.
async fn until_next_end(app: &App) -> Duration {
    let longest = Duration::from_millis(app.settings.longest_sleep_ms.max(10));
    match store::assignments::next_end(&app.pool).await {
        // A millisecond later than the end, so that it is over then.
        Ok(Some(end)) => {
            (end - Utc::now()).to_std().unwrap_or_default().saturating_add(Duration::from_millis(1)).min(longest)
        }
        Ok(None) | Err(_) => longest,
    }
}

/// Makes the first administrator, once in the platform's life, and gives the password to auth-service as soon as that
/// answers.
pub(crate) async fn bootstrap(app: App, administrator: FirstAdministrator, shutdown: CancellationToken) {
    let mut pause = PAUSE.0;
    loop {
        match attempt(&app, &administrator).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the first administrator is not ready yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            () = shutdown.cancelled() => return,
        }
    }
}

async fn attempt(app: &App, administrator: &FirstAdministrator) -> anyhow::Result<()> {
    make(app, administrator).await.context("make the first administrator")?;
    let Some(id) = store::bootstrap::waiting_for_credential(&app.pool).await? else { return Ok(()) };
    let user = store::users::find(&app.pool, id).await?;
    app.credentials.put(&user, Some(&administrator.password)).await.context("give the password to auth-service")?;
    store::bootstrap::credential_taken(&app.pool).await?;
    tracing::info!("the first administrator can log in");
    Ok(())
}

async fn make(app: &App, administrator: &FirstAdministrator) -> Result<(), Problem> {
    let mut change = Change::begin(app).await?;
    if !store::bootstrap::begin(&mut change).await? {
        return Ok(());
    }
    let everything = PermissionPattern::try_from(EVERYTHING.to_owned()).expect("a permission");
    let definition = RoleDefinition {
        description: "May everything.".to_owned().try_into().expect("a short text"),
        permissions: BTreeSet::from([everything]),
        inherits: BTreeSet::new(),
    };
    changes::roles::ensure_administrator(&mut change, &definition).await?;
    let new = NewUser {
        username: administrator.username.clone(),
        email: administrator.email.clone(),
        display_name: DisplayName::try_from("Administrator".to_owned()).expect("a name"),
        disabled: false,
        profile: Document::new(),
        external_id: None,
        attributes: None,
    };
    let user = store::users::insert(&mut change, Uuid::now_v7(), &new).await?;
    store::assignments::put::<Assignment>(&mut change, user.id, ADMINISTRATOR, None, None).await?;
    changes::users::tell(&mut change, None, "created", None, Some(&user)).await?;
    store::bootstrap::made(&mut change, user.id).await?;
    change.commit(app).await?;
    tracing::info!(username = name::key(&user.username), "made the first administrator");
    Ok(())
}

fn chain(problem: &Problem) -> String {
    let mut text = problem.to_string();
    let mut source = std::error::Error::source(problem);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
