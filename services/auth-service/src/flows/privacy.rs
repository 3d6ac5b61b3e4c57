//! What auth-service holds on a person: shown, and erased. The audit record stays whole, so that it can still be verified: it
//! names people by their ids alone, and nothing says any more whose id it was.

use chrono::Utc;
use kronos_common::{
    identity::{Revocation, RevocationPublisher},
    name,
    privacy::{Erased, Holder, Person},
    problem::Result,
};
use serde_json::{Value, json};

use super::sessions;
use crate::{App, audit::SecurityEvent, store};

impl Holder for App {
    async fn held(&self, person: &Person) -> Result<Value> {
        let (username_key, email_key) = (name::key(&person.username), name::key(&person.email));
        Ok(store::privacy::held(&self.pool, person, &username_key, &email_key).await?)
    }

    async fn erase(&self, person: &Person) -> Result<Erased> {
        let (username_key, email_key) = (name::key(&person.username), name::key(&person.email));
        let now = Utc::now();
        let mut transaction = self.pool.begin().await?;
        let mut ended = sessions::end_all(&mut transaction, person.user_id, "person-erased").await?;
        for key in store::privacy::api_keys(&mut transaction, person.user_id).await? {
            RevocationPublisher::in_transaction(&mut transaction, &Revocation::session_now(key.to_string())).await?;
            ended.push(key);
        }
        let erased = store::privacy::erase(&mut transaction, person, &username_key, &email_key).await?;
        if erased.removed.values().any(|count| *count > 0) {
            let event = SecurityEvent::about("person-erased", person.user_id.to_string(), None, json!({}));
            store::audit::record(&mut transaction, &event, now).await?;
        }
        transaction.commit().await?;
        sessions::after_commit(self, &ended).await;
        Ok(erased
            .keeping("audit: entries name the id alone, which is nobody's now; the chain stays whole")
            .keeping("throttling: counters of failed logins by name, in Redis, for minutes"))
    }
}
