//! Token exchange (RFC 8693): a technician acts for a robot until the ticket closes, or a service acts for whoever called it.
//! Whoever acts is named in the token (`act`), and the token ends with the ticket, the actor's session, or the subject's rights.

use chrono::{TimeDelta, Utc};
use kronos_common::{
    identity::{Actor, Claims, LONGEST_TOKEN_LIFE_SECONDS},
    problem::Problem,
};
use serde_json::json;
use uuid::Uuid;

use super::{client_auth, sessions};
use crate::{
    App,
    audit::SecurityEvent,
    clients::{Client, intersect},
    store::{self, delegations::Delegation},
    tokens::{IssuedToken, Subject},
};

/// What an actor holds on `robot:{id}` to act for it.
const ACT_FOR_ROBOTS: &str = "robots:act";

/// For whom, shown by whom.
pub(crate) enum For<'a> {
    /// Whoever this token belongs to.
    Token(&'a str),
    /// A robot, by its id.
    Robot(&'a str),
}

/// An exchange that is asked for.
pub(crate) struct Exchange<'a> {
    pub client: &'a Client,
    pub subject: For<'a>,
    pub actor_token: Option<&'a str>,
    pub ticket: Option<&'a str>,
    /// Permissions; none: all that may be had.
    pub wanted: Vec<String>,
    pub audience: Vec<String>,
    pub dpop_jkt: Option<String>,
}

/// The token, and what it may.
///
/// # Errors
/// 400 `invalid_request`, `invalid_grant`; 403 if the actor may not act for this robot; the stores.
pub(crate) async fn exchange(app: &App, asked: Exchange<'_>) -> Result<(IssuedToken, Vec<String>), Problem> {
    match (&asked.subject, asked.actor_token) {
        (For::Token(token), None) => on_behalf(app, token, &asked).await,
        (For::Token(token), Some(actor)) => {
            let subject = read(app, token, "subject_token", &asked).await?;
            if !subject.is_client() {
                return Err(invalid_request("nobody acts for another person"));
            }
            let robot = subject.sub.clone();
            for_robot(app, &robot, actor, &asked).await
        }
        (For::Robot(robot), Some(actor)) => for_robot(app, robot, actor, &asked).await,
        (For::Robot(_), None) => Err(invalid_request("actor_token is missing: who acts for the robot?")),
    }
}

async fn read(app: &App, token: &str, which: &str, asked: &Exchange<'_>) -> Result<std::sync::Arc<Claims>, Problem> {
    let refuse = |why: &str| Problem::bad_request("invalid_grant", format!("{which}: {why}"));
    let claims = app.verifier.inspect(token).await.map_err(|problem| match problem.status() {
        status if status.is_server_error() => problem,
        _ => refuse(problem.detail()),
    })?;
    if claims.act.is_some() {
        return Err(refuse("somebody acts already"));
    }
    if claims.cnf.as_ref().is_some_and(|bound| Some(&bound.jkt) != asked.dpop_jkt.as_ref()) {
        return Err(refuse("it is bound to another key than the proof's"));
    }
    Ok(claims)
}

/// A service that was called goes on in the caller's name, with at most what both may.
async fn on_behalf(app: &App, token: &str, asked: &Exchange<'_>) -> Result<(IssuedToken, Vec<String>), Problem> {
    let claims = read(app, token, "subject_token", asked).await?;
    let now = Utc::now();
    let both = intersect(&asked.client.permissions, &claims.permissions);
    let permissions = if asked.wanted.is_empty() { both } else { intersect(&asked.wanted, &both) };
    let subject = Subject {
        sub: claims.sub.clone(),
        client_id: asked.client.client_id.clone(),
        sid: claims.sid.as_deref().and_then(|sid| Uuid::parse_str(sid).ok()),
        username: claims.username.clone(),
        roles: Vec::new(),
        permissions: permissions.clone(),
        epoch: claims.epoch,
        // Not a second longer than what it was made from.
        valid_until: chrono::DateTime::from_timestamp(claims.exp, 0),
        scope: Some(permissions.join(" ")),
        audience: asked.audience.clone(),
        actor: Some(Actor { sub: asked.client.client_id.clone(), sid: None }),
        dpop_jkt: asked.dpop_jkt.clone(),
    };
    Ok((app.issuer.issue(subject, now), permissions))
}

async fn for_robot(
    app: &App,
    robot: &str,
    actor_token: &str,
    asked: &Exchange<'_>,
) -> Result<(IssuedToken, Vec<String>), Problem> {
    let ticket = asked.ticket.filter(|ticket| is_ticket(ticket));
    let ticket = ticket.ok_or_else(|| invalid_request("ticket is missing, or not 1 to 128 printable characters"))?;
    let actor = read(app, actor_token, "actor_token", asked).await?;
    let person = Uuid::parse_str(&actor.sub).ok().filter(|_| !actor.is_client());
    let person = person.ok_or_else(|| invalid_request("actor_token: only a person acts for a robot"))?;
    let registered = client_auth::find(app, robot).await?;
    let registered = registered.ok_or_else(|| Problem::bad_request("invalid_grant", "there is no such robot"))?;
    let decision = app.users.check(person, ACT_FOR_ROBOTS, Some(&format!("robot:{robot}")), None).await?;
    if !decision.allowed {
        let detail = format!("this needs the permission {ACT_FOR_ROBOTS} on robot:{robot}");
        return Err(Problem::forbidden(detail));
    }
    let held = &registered.client.permissions;
    let permissions = if asked.wanted.is_empty() { held.clone() } else { intersect(&asked.wanted, held) };
    let now = Utc::now();
    let row = Delegation {
        id: Uuid::now_v7(),
        subject: robot.to_owned(),
        actor: actor.sub.clone(),
        client_id: asked.client.client_id.clone(),
        ticket: ticket.to_owned(),
        created_at: now,
        expires_at: now + TimeDelta::seconds(LONGEST_TOKEN_LIFE_SECONDS),
        ended_at: None,
    };
    let mut transaction = app.pool.begin().await?;
    if !store::delegations::insert(&mut transaction, &row).await? {
        return Err(Problem::bad_request("invalid_grant", "the ticket is closed"));
    }
    let data = json!({ "session": row.id, "ticket": ticket, "client": row.client_id, "permissions": permissions });
    let event = SecurityEvent::about("acts-for-robot", robot, Some(&actor.sub), data);
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    let subject = Subject {
        sub: robot.to_owned(),
        client_id: asked.client.client_id.clone(),
        sid: Some(row.id),
        username: None,
        roles: Vec::new(),
        permissions: permissions.clone(),
        epoch: registered.client.epoch,
        valid_until: None,
        scope: Some(permissions.join(" ")),
        audience: asked.audience.clone(),
        actor: Some(Actor { sub: actor.sub.clone(), sid: actor.sid.clone() }),
        dpop_jkt: asked.dpop_jkt.clone(),
    };
    Ok((app.issuer.issue(subject, now), permissions))
}

/// Closes a ticket: whoever acts under it is refused everywhere, and nobody begins to. Says how many tokens ended.
///
/// # Errors
/// 422; the database.
pub(crate) async fn close_ticket(app: &App, ticket: &str, closed_by: &str) -> Result<usize, Problem> {
    if !is_ticket(ticket) {
        return Err(Problem::field("/ticket", "invalid", "1 to 128 printable characters"));
    }
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    let ended = store::delegations::close(&mut transaction, ticket, closed_by, now).await?;
    sessions::revoke(&mut transaction, &ended).await?;
    let data = json!({ "ticket": ticket, "sessions": ended });
    let event = SecurityEvent { kind: "ticket-closed", subject: None, actor: Some(closed_by.to_owned()), data };
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    sessions::after_commit(app, &ended).await;
    Ok(ended.len())
}

/// Whether a text can name a ticket.
pub(crate) fn is_ticket(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn invalid_request(detail: &str) -> Problem {
    Problem::bad_request("invalid_request", detail)
}
