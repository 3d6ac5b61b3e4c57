//! The first start: clients from a file that are not there yet. What is there is never changed, so the file may stay.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use chrono::Utc;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgPool;

use crate::{
    audit::SecurityEvent,
    catalogue,
    client_settings::Settings,
    clients::{SHORTEST_SECRET, hash_secret, is_permission, next_epoch},
    store::{self, Turn, clients::NewClient},
};

/// The file: `{"clients":{"hyperion":{"secret":"…"}}}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bootstrap {
    pub clients: BTreeMap<String, FirstClient>,
}

/// A client of the file. One that is not in the catalogue names its permissions.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirstClient {
    pub secret: SecretString,
    pub name: Option<String>,
    pub permissions: Option<Vec<String>>,
}

impl Bootstrap {
    /// Reads the file's text.
    ///
    /// # Errors
    /// What is wrong, and with which client.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let bootstrap: Self = serde_json::from_str(text).context("it is not the JSON that is expected")?;
        for (id, client) in &bootstrap.clients {
            let length = client.secret.expose_secret().len();
            ensure!(length >= SHORTEST_SECRET, "the secret of {id} has fewer than {SHORTEST_SECRET} characters");
            ensure!(
                client.permissions.is_some() || catalogue::find(id).is_some(),
                "{id} is not in the catalogue: name its permissions"
            );
            for permission in client.permissions.iter().flatten() {
                ensure!(is_permission(permission), "{permission} of {id} is not a permission");
            }
        }
        Ok(bootstrap)
    }
}

/// Makes the clients of the file that are missing; two instances that start at once make each one once.
///
/// # Errors
/// The file or the database.
pub(crate) async fn run(pool: &PgPool, file: &Path) -> anyhow::Result<()> {
    let text = tokio::fs::read_to_string(file).await.with_context(|| format!("read {}", file.display()))?;
    let bootstrap = Bootstrap::parse(&text).with_context(|| format!("read {}", file.display()))?;
    let now = Utc::now();
    let mut transaction = pool.begin().await?;
    store::take_turn(&mut transaction, Turn::Bootstrap).await?;
    for (id, client) in &bootstrap.clients {
        if store::clients::find(&mut *transaction, id).await?.is_some() {
            continue;
        }
        let known = catalogue::find(id);
        let permissions = match (&client.permissions, known) {
            (Some(permissions), _) => permissions.clone(),
            (None, Some(known)) => known.permissions.iter().map(|permission| (*permission).to_owned()).collect(),
            (None, None) => Vec::new(),
        };
        let name = client.name.as_deref().or(known.map(|known| known.name)).unwrap_or(id);
        let row = NewClient {
            client_id: id,
            settings: &Settings::of_program(name, permissions.clone()),
            secret_hash: Some(&hash_secret(client.secret.expose_secret())),
            registration_token_hash: None,
            epoch: next_epoch(now, None),
            created_by: "bootstrap",
        };
        store::clients::insert(&mut transaction, &row).await?;
        let data = json!({ "permissions": permissions });
        let event = SecurityEvent::about("client-created", id.as_str(), Some("bootstrap"), data);
        store::audit::record(&mut transaction, &event, now).await?;
        tracing::info!(client = id, "client made");
    }
    transaction.commit().await?;
    Ok(())
}
