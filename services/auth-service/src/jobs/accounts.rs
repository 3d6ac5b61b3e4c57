//! Accounts' loops: mails that were asked for are prepared, what is over is forgotten.

use std::time::Duration;

use chrono::Utc;
use kronos_common::service;

use crate::{
    App,
    flows::{
        passwords::{RESET, VERIFICATION, send_link},
        registration::send_again,
    },
    store,
};

/// Looks for requests that another instance left.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Prepares mails as soon as they are asked for.
pub(crate) async fn prepare_mails(app: App, context: service::Context) {
    loop {
        match prepare_next(&app).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(error = format!("{error:#}"), "a mail that was asked for waits"),
        }
        tokio::select! {
            () = app.mail_requests.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = context.shutdown.cancelled() => return,
        }
    }
}

async fn prepare_next(app: &App) -> anyhow::Result<bool> {
    let mut transaction = app.pool.begin().await?;
    let Some(request) = store::links::take_request(&mut transaction).await? else {
        return Ok(false);
    };
    if request.kind == VERIFICATION {
        send_again(app, &mut transaction, &request.email_key).await?;
    }
    for account in store::links::accounts_of(&mut transaction, &request.email_key).await? {
        let reset = request.kind == RESET;
        if account.disabled || (!reset && account.email_verified_at.is_some()) {
            continue;
        }
        let purpose = if reset { RESET } else { VERIFICATION };
        send_link(app, &mut transaction, purpose, &account, &request.language).await?;
    }
    transaction.commit().await?;
    app.relay.wake();
    Ok(true)
}

/// Removes counters, challenges and links whose time is over.
pub(crate) async fn forget_old(app: App, context: service::Context) {
    loop {
        let now = Utc::now();
        let done = async {
            store::attempts::forget_old(&app.pool, now).await?;
            store::registrations::forget_old(&app.pool, now).await?;
            store::links::forget_old(&app.pool, now).await
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "what is over stays for now");
        }
        tokio::select! {
            () = tokio::time::sleep(FORGET_EVERY) => {}
            () = context.shutdown.cancelled() => return,
        }
    }
}
