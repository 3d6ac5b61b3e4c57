//! All that Kronos holds on a person: asked of every service that holds something, shown, and erased. An erasure is done when
//! every service has said so twice: the second time takes what was still on its way the first time.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use axum::http::StatusCode;
use chrono::Utc;
use futures::future::try_join_all;
use kronos_common::{
    event::Event,
    identity::{Client, ServiceToken},
    name,
    privacy::{ERASE_PATH, EXPORT_PATH, Erased, Person},
    problem::{Problem, Result},
    service::Context,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Actor, Change, has_an_administrator, keep_an_administrator};
use crate::{
    App, config,
    privacy::{Erasure, OWN, PrivacyExport},
    store,
    users::User,
};

/// How long a service may look for a person in all that it has.
const DEADLINE: Duration = Duration::from_secs(30);
/// The longest pause before a service that did not answer is asked again, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 300_000;

/// The other services that hold something on people, by name.
pub(crate) struct Holders(Vec<(&'static str, Client)>);

impl Holders {
    /// # Errors
    /// A URL that is none.
    pub(crate) fn new(
        services: &config::Services,
        auth: Client,
        token: &ServiceToken,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let client = |url: &str, key: &'static str| {
            let client = Client::new(url, token.clone(), context);
            client.with_context(|| format!("configuration key `services.{key}`"))
        };
        let others = [
            ("auth-service", auth),
            ("log-service", client(&services.log_url, "log_url")?),
            ("database-admin", client(&services.database_admin_url, "database_admin_url")?),
        ];
        Ok(Self(others.map(|(name, client)| (name, client.with_deadline(DEADLINE))).into()))
    }
}

fn person(user: &User) -> Person {
    Person { user_id: user.id, username: user.username.clone(), email: user.email.clone() }
}

/// All that every service holds on a person; all of it or nothing.
pub(crate) async fn export(app: &App, actor: Actor<'_>, id: Uuid) -> Result<PrivacyExport> {
    let mut connection = app.pool.acquire().await?;
    actor.may_change(&mut connection, id).await?;
    drop(connection);
    let mut user = store::users::find(&app.pool, id).await?;
    app.sealer.open(&mut user)?;
    let person = person(&user);
    let asked = app.holders.0.iter().map(|(name, client)| ask(name, client, &person));
    let mut services: BTreeMap<String, Value> = try_join_all(asked).await?.into_iter().collect();
    let mut own = store::privacy::held(&app.pool, id).await?;
    own["person"] = json!(user);
    services.insert(OWN.to_owned(), own);
    Ok(PrivacyExport { user_id: id, exported_at: Utc::now(), services })
}

async fn ask(name: &'static str, client: &Client, person: &Person) -> Result<(String, Value)> {
    let held = client.post::<_, Value>(EXPORT_PATH, person).await.map_err(|error| {
        let detail = format!("{name} does not say what it holds now: an export is whole or none, try again");
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", detail);
        problem.with_retry_after(Duration::from_secs(5)).caused_by(error)
    })?;
    Ok((name.to_owned(), held))
}

/// Removes a person here, and leaves it to the job to have every other service forget them. Repeating it gives the receipt.
pub(crate) async fn erase(app: &App, actor: Actor<'_>, id: Uuid) -> Result<Erasure> {
    match store::privacy::find(&app.pool, id).await {
        Err(problem) if problem.status() == StatusCode::NOT_FOUND => {}
        found => return found,
    }
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    let user = store::users::lock(&mut change, id).await?;
    actor.may_change(&mut change, id).await?;
    let administered = has_an_administrator(&mut change).await?;
    let person = person(&user);
    let services: Vec<&str> = app.holders.0.iter().map(|(name, _)| *name).chain([OWN]).collect();
    store::privacy::begin(&mut change, &person, &actor.named(), &services).await?;
    store::users::delete(&mut change, id).await?;
    keep_an_administrator(&mut change, administered).await?;
    let epoch = store::rights::next_epoch(&mut change).await?;
    change.revoke_people(&[id], epoch).await?;
    // No name: this event is kept in places.
    let data = json!({"epoch": epoch, "erased": true, "by": actor.named()});
    change.tell(&Event::new("kronos.user.deleted", id.to_string(), data)).await?;
    change.commit(app).await?;
    app.held.forget_person(id);
    app.erasure_waits.notify_one();
    store::privacy::find(&app.pool, id).await
}

/// Asks the service whose turn it is to forget somebody; gives whether there was one.
pub(crate) async fn carry_out(app: &App) -> Result<bool> {
    // If this instance dies meanwhile, another one asks again after this.
    let lease_ms = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
    let Some(part) = store::privacy::take(&app.pool, lease_ms).await? else { return Ok(false) };
    let person = Person { user_id: part.user_id, username: part.username.clone(), email: part.email.clone() };
    let erased = match app.holders.0.iter().find(|(name, _)| *name == part.service) {
        Some((_, client)) => client.post::<_, Erased>(ERASE_PATH, &person).await.map_err(|error| error.to_string()),
        None if part.service == OWN => Ok(Erased::default()),
        // A later version knew it.
        None => Err("this version does not know the service".to_owned()),
    };
    let again_ms = app.privacy.again_after_ms;
    match erased {
        Ok(mut erased) => {
            let mut change = Change::begin(app).await?;
            if part.service == OWN {
                erased = store::privacy::erase_rest(&mut change, &person, &name::key(&person.username)).await?;
                erased = erased.keeping("the id, in events and in this receipt: it is nobody's now");
            }
            store::privacy::acknowledge(&mut change, &part, &erased, again_ms).await?;
            change.commit(app).await?;
        }
        Err(error) => {
            let pause_ms = (500 << part.attempts.clamp(0, 12)).min(LONGEST_PAUSE_MS);
            tracing::warn!(service = part.service, error, "a service has not forgotten somebody yet");
            store::privacy::failed(&app.pool, &part, &error, pause_ms).await?;
        }
    }
    Ok(true)
}
