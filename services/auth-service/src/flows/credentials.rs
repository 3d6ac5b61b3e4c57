//! Setting and removing a user's credentials, on user-service's word.

use chrono::Utc;
use kronos_common::{
    name,
    problem::{OnConstraint as _, Problem},
};
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use super::{login::username_key, passwords, sessions};
use crate::{
    App,
    audit::SecurityEvent,
    store::{self, credentials::NewCredential},
};

/// What user-service says of a user.
pub(crate) struct Put {
    pub user_id: Uuid,
    pub username: String,
    pub email: String,
    pub password: Option<SecretString>,
}

/// Sets a user's credentials. A name that belonged to another user is taken from them, because user-service is the authority
/// of names. A changed password ends the user's sessions.
///
/// # Errors
/// 422 for a password that is too short; 409 if the name is being given to another user at this moment.
pub(crate) async fn put(app: &App, put: Put, actor: &str) -> Result<(), Problem> {
    if let Some(new) = &put.password {
        passwords::must_be_good(app, "/password", new, &[&put.username, &put.email])?;
    }
    let stored = store::credentials::by_user(&app.pool, put.user_id).await?;
    let had_password = stored.as_ref().is_some_and(|stored| stored.password_phc.is_some());
    let password_phc = match (put.password, stored.and_then(|stored| stored.password_phc)) {
        (None, _) => None,
        (Some(password), None) => Some(app.hashing.hash(password).await?),
        (Some(password), Some(phc)) => {
            let verified = app.hashing.verify(app.hashing.place()?, password.clone(), Some(phc)).await?;
            if verified.correct { None } else { Some(app.hashing.hash(password).await?) }
        }
    };
    let key = username_key(&put.username);
    let mut transaction = app.pool.begin().await?;
    let mut ended = Vec::new();
    for displaced in store::credentials::displace(&mut transaction, put.user_id, &key).await? {
        ended.extend(remove_traces(&mut transaction, displaced, "name-taken").await?);
    }
    let new = NewCredential {
        user_id: put.user_id,
        username: put.username.trim(),
        username_key: &key,
        email: &put.email,
        email_key: &name::key(&put.email),
        password_phc: password_phc.as_deref(),
    };
    let taken = || Problem::conflict("username_taken", "the username was just given to another user: try again");
    store::credentials::put(&mut transaction, &new).await.on_constraint("credentials_username_key", taken())?;
    if had_password && password_phc.is_some() {
        ended.extend(sessions::end_all(&mut transaction, put.user_id, "password-changed").await?);
    }
    let data = json!({ "passwordChanged": password_phc.is_some() });
    let event = SecurityEvent::about("credentials-set", put.user_id.to_string(), Some(actor), data);
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    sessions::after_commit(app, &ended).await;
    Ok(())
}

/// Removes a user's credentials and ends the sessions; removing what is not there is no error.
///
/// # Errors
/// The database.
pub(crate) async fn delete(app: &App, user_id: Uuid, actor: &str) -> Result<(), Problem> {
    let mut transaction = app.pool.begin().await?;
    let existed = store::credentials::delete(&mut transaction, user_id).await?;
    let ended = remove_traces(&mut transaction, user_id, "credentials-removed").await?;
    if existed {
        let event = SecurityEvent::about("credentials-removed", user_id.to_string(), Some(actor), json!({}));
        store::audit::record(&mut transaction, &event, Utc::now()).await?;
    }
    transaction.commit().await?;
    sessions::after_commit(app, &ended).await;
    Ok(())
}

async fn remove_traces(
    connection: &mut sqlx::PgConnection,
    user_id: Uuid,
    reason: &'static str,
) -> sqlx::Result<Vec<Uuid>> {
    store::grants::delete(&mut *connection, user_id).await?;
    store::browsers::forget_user(&mut *connection, user_id).await?;
    store::factors::delete_all(&mut *connection, user_id).await?;
    sessions::end_all(connection, user_id, reason).await
}
