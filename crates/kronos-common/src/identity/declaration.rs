//! A service declares the permissions that it asks for when it starts, so that roles can grant them. Who keeps the catalogue
//! may be away for a while: it is told as soon as it answers.

use std::time::Duration;

use serde_json::{Value, json};

use super::Client;
use crate::service::Context;

/// Pauses between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Declares, in the background, that this service asks for these permissions: each with what it allows. `catalogue` is the client
/// of user-service.
pub fn declare(catalogue: Client, permissions: &[(&str, &str)], context: &Context) {
    let named = |(name, description): &(&str, &str)| json!({"name": name, "description": description});
    let body = json!({"permissions": permissions.iter().map(named).collect::<Vec<_>>()});
    let (path, shutdown) = (format!("/permissions/{}", context.name), context.shutdown.clone());
    context.spawn("permissions", async move {
        let (mut pause, mut told) = (PAUSE.0, false);
        loop {
            let Err(error) = catalogue.put::<_, Value>(&path, &body).await else { return };
            // Services start together: who is not there in the first seconds is nothing to tell of.
            if pause == PAUSE.1 && !std::mem::replace(&mut told, true) {
                tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "permissions are not declared yet");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                () = shutdown.cancelled() => return,
            }
        }
    });
}
