//! Events of user-service: a user who is disabled or deleted loses the sessions, changed rights replace the last known ones.

use anyhow::Context as _;
use chrono::Utc;
use kronos_common::{event::Event, events::Subscription, identity::Revocation};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{App, audit::SecurityEvent, flows::sessions, store};

/// What is read of the data; other members are the business of others.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    epoch: Option<i64>,
}

/// The subscription to `kronos.user.*`.
pub(crate) fn users(app: App) -> Subscription {
    Subscription::new("auth-service.users", &["kronos.user.*"], move |connection, event| {
        let app = app.clone();
        Box::pin(async move { user_changed(&app, connection, event).await })
    })
}

async fn user_changed(app: &App, connection: &mut PgConnection, event: Event) -> anyhow::Result<()> {
    let subject = event.subject.as_deref().context("the event has no subject")?;
    let user_id = Uuid::parse_str(subject).context("the event's subject is not a user id")?;
    let data = Data::deserialize(&event.data).unwrap_or_default();
    let kind = event.type_.rsplit('.').next().unwrap_or_default();
    // Before anything is locked: the answer may take its time.
    let known = store::grants::find(&mut *connection, user_id).await?;
    let asked = if known.is_some() && kind != "deleted" { Some(app.users.grants(user_id).await) } else { None };
    if let Some(epoch) = data.epoch {
        store::grants::note_epoch(&mut *connection, user_id, epoch).await?;
    }
    match kind {
        "deleted" => store::grants::delete(&mut *connection, user_id).await?,
        "disabled" | "enabled" => {
            store::credentials::set_disabled(connection, user_id, kind == "disabled").await?;
            store::grants::set_disabled(&mut *connection, user_id, kind == "disabled").await?;
        }
        _ => {}
    }
    match asked {
        Some(Ok(Some(grants))) => {
            // The answer, not the event, says whether the user is disabled now: events may come late.
            store::credentials::set_disabled(connection, user_id, grants.disabled).await?;
            store::grants::save(&mut *connection, &grants, Utc::now()).await?;
        }
        Some(Ok(None)) => store::grants::delete(&mut *connection, user_id).await?,
        // What is known stays marked as outdated, and the next login or check asks anyway.
        Some(Err(error)) => tracing::warn!(%error, "rights have changed, the new ones are not known yet"),
        None => {}
    }
    let ended = match kind {
        "deleted" => {
            if store::credentials::delete(connection, user_id).await? {
                let data = json!({ "reason": "user-deleted" });
                let event = SecurityEvent::about("credentials-removed", subject, None, data);
                store::audit::record(connection, &event, Utc::now()).await?;
            }
            sessions::end_all(connection, user_id, "user-deleted").await?
        }
        "disabled" => sessions::end_all(connection, user_id, "user-disabled").await?,
        _ => Vec::new(),
    };
    for id in ended {
        app.revocations.apply(&Revocation::session_now(id.to_string()));
    }
    Ok(())
}
