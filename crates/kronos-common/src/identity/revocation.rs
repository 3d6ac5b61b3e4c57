//! Which tokens ended before their time. Every service follows a Redis Stream into maps of its own, so a request asks no
//! one. A gap in the numbers, another generation or a new connection makes the follower read the snapshot; what it knows
//! already, it keeps. While Redis is away the last known maps hold, and `/ready` and a metric say how old they are.
//!
//! Keys, all in one hash slot: the stream `{prefix}{revocations}`, and beside it `:seq` (last number), `:subjects` (hash,
//! `kind:name` → epoch), `:expiries` (sorted set, member → unix seconds after which it may be forgotten) and `:generation`.
//! None of them has a time to live: under memory pressure Redis must evict by a `volatile-…` policy, or not at all.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use futures::FutureExt as _;
use secrecy::ExposeSecret as _;
use tokio::sync::watch;

use super::{
    Claims, LONGEST_TOKEN_LIFE_SECONDS,
    revocation_follower::{Age, Follower},
};
use crate::{
    config,
    service::{Context, Criticality},
};

/// Maps older than this are reported by `/ready`.
const STALE_AFTER: Duration = Duration::from_secs(5);
/// A starting service waits so long for the first snapshot.
const FIRST_SNAPSHOT_WITHIN: Duration = Duration::from_secs(2);

/// What ends tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// A user's tokens of an earlier epoch.
    Subject {
        /// The user's id.
        subject: String,
        /// The first epoch that is good.
        epoch: i64,
    },
    /// A client's own tokens of an earlier epoch.
    Client {
        /// The client's id.
        client_id: String,
        /// The first epoch that is good.
        epoch: i64,
    },
    /// Tokens of an earlier epoch that name this role, whoever's they are.
    Role {
        /// The role's name.
        role: String,
        /// The first epoch that is good.
        epoch: i64,
    },
    /// Every token of one session, or one token.
    Session {
        /// The session's id, or the token's (`jti`).
        sid: String,
        /// Unix seconds until which it is remembered: when the session's last token has ended.
        until: i64,
    },
}

impl Revocation {
    /// A session that ends now.
    pub fn session_now(sid: impl Into<String>) -> Self {
        Self::Session { sid: sid.into(), until: unix_now() + LONGEST_TOKEN_LIFE_SECONDS }
    }

    /// Kind, name and value, as the table and the stream hold them.
    pub(super) fn parts(&self) -> (&'static str, &str, i64) {
        match self {
            Self::Subject { subject, epoch } => ("subject", subject, *epoch),
            Self::Client { client_id, epoch } => ("client", client_id, *epoch),
            Self::Role { role, epoch } => ("role", role, *epoch),
            Self::Session { sid, until } => ("session", sid, *until),
        }
    }

    pub(super) fn from_parts(kind: &str, name: &str, value: i64) -> Option<Self> {
        let name = name.to_owned();
        match kind {
            "subject" => Some(Self::Subject { subject: name, epoch: value }),
            "client" => Some(Self::Client { client_id: name, epoch: value }),
            "role" => Some(Self::Role { role: name, epoch: value }),
            "session" => Some(Self::Session { sid: name, until: value }),
            _ => None,
        }
    }
}

/// The keys of the stream and its snapshot.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) stream: String,
    pub(super) seq: String,
    pub(super) subjects: String,
    pub(super) expiries: String,
    pub(super) generation: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let stream = format!("{prefix}{{revocations}}");
        Self {
            seq: format!("{stream}:seq"),
            subjects: format!("{stream}:subjects"),
            expiries: format!("{stream}:expiries"),
            generation: format!("{stream}:generation"),
            stream,
        }
    }
}

#[derive(Default)]
struct Maps {
    subjects: HashMap<String, Epoch>,
    clients: HashMap<String, Epoch>,
    roles: HashMap<String, Epoch>,
    /// Session id → unix seconds until which it is remembered.
    sessions: HashMap<String, i64>,
}

#[derive(Clone, Copy)]
struct Epoch {
    first_good: i64,
    /// Unix seconds; later no token of an earlier epoch can be alive.
    forget_at: i64,
}

struct Inner {
    maps: RwLock<Maps>,
    started: Instant,
    /// Milliseconds from `started` to the last answer of Redis; `NEVER` before the first.
    contact: AtomicU64,
}

const NEVER: u64 = u64::MAX;

/// The maps of what is revoked; cheap to clone.
#[derive(Clone)]
pub struct Revocations(Arc<Inner>);

impl Revocations {
    /// Follows the stream until shutdown. Waits up to two seconds for the first snapshot; without Redis it starts empty,
    /// degraded, and catches up later.
    ///
    /// # Errors
    /// A Redis URL that is none, or a metric that is registered twice.
    pub async fn follow(redis: &config::Redis, context: &Context) -> anyhow::Result<Self> {
        let revocations = Self::none();
        let client = open(redis)?;
        context
            .metrics
            .register(Box::new(Age::new(revocations.clone())?))
            .context("register the age of the revocations")?;
        let asked = revocations.clone();
        context.depends_on("revocations", Criticality::Degraded, move || {
            let age = asked.age();
            async move {
                anyhow::ensure!(age < STALE_AFTER, "last heard of Redis {} s ago", age.as_secs());
                Ok(())
            }
            .boxed()
        });
        let (first, mut snapshot) = watch::channel(false);
        let follower = Follower {
            revocations: revocations.clone(),
            client,
            timeout: Duration::from_millis(redis.timeout_ms),
            keys: Keys::new(&redis.prefix),
            first,
        };
        let shutdown = context.shutdown.clone();
        context.spawn("revocations", async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = follower.run() => {}
            }
        });
        if tokio::time::timeout(FIRST_SNAPSHOT_WITHIN, snapshot.wait_for(|read| *read)).await.is_err() {
            tracing::warn!("no snapshot of the revocations yet, starting without");
        }
        Ok(revocations)
    }

    /// Maps that follow nothing: for tests, and for whoever feeds them by [`apply`](Self::apply).
    pub fn none() -> Self {
        Self(Arc::new(Inner { maps: RwLock::default(), started: Instant::now(), contact: AtomicU64::new(NEVER) }))
    }

    /// Whether the token ended before its time.
    pub fn is_revoked(&self, claims: &Claims) -> bool {
        let maps = self.0.maps.read().expect("no holder panics");
        let earlier = |epoch: Option<&Epoch>| epoch.is_some_and(|epoch| claims.epoch < epoch.first_good);
        let ended = |id: &String| maps.sessions.contains_key(id);
        earlier(maps.subjects.get(&claims.sub))
            || earlier(maps.clients.get(&claims.sub))
            || (!maps.roles.is_empty() && claims.roles.iter().any(|role| earlier(maps.roles.get(role))))
            || (!maps.sessions.is_empty()
                && (ended(&claims.jti)
                    || claims.sid.as_ref().is_some_and(ended)
                    || claims.act.as_ref().and_then(|actor| actor.sid.as_ref()).is_some_and(ended)))
    }

    /// The first epoch of a user that is good, if it moved within the longest token life.
    pub fn subject_epoch(&self, subject: &str) -> Option<i64> {
        self.0.maps.read().expect("no holder panics").subjects.get(subject).map(|epoch| epoch.first_good)
    }

    /// The first epoch of a client that is good, if it moved within the longest token life.
    pub fn client_epoch(&self, client_id: &str) -> Option<i64> {
        self.0.maps.read().expect("no holder panics").clients.get(client_id).map(|epoch| epoch.first_good)
    }

    /// The latest first epoch that is good among these roles, if one moved within the longest token life.
    pub fn role_epoch<'a>(&self, roles: impl IntoIterator<Item = &'a str>) -> Option<i64> {
        let maps = self.0.maps.read().expect("no holder panics");
        if maps.roles.is_empty() {
            return None;
        }
        roles.into_iter().filter_map(|role| maps.roles.get(role)).map(|epoch| epoch.first_good).max()
    }

    /// Whether Redis was heard of lately: what is not in the maps then was not revoked.
    pub fn is_current(&self) -> bool {
        self.age() < STALE_AFTER
    }

    /// Takes one revocation at once, here only; publishing it to others is `RevocationPublisher`'s work.
    pub fn apply(&self, revocation: &Revocation) {
        self.take(revocation, unix_now() + LONGEST_TOKEN_LIFE_SECONDS);
    }

    /// How long ago Redis last answered; from the start if it never did.
    pub fn age(&self) -> Duration {
        let since_start = self.0.started.elapsed();
        match self.0.contact.load(Ordering::Relaxed) {
            NEVER => since_start,
            contact => since_start.saturating_sub(Duration::from_millis(contact)),
        }
    }

    pub(super) fn touch(&self) {
        let millis = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.0.contact.store(millis, Ordering::Relaxed);
    }

    pub(super) fn take(&self, revocation: &Revocation, forget_at: i64) {
        let mut maps = self.0.maps.write().expect("no holder panics");
        let raise = |map: &mut HashMap<String, Epoch>, name: &str, first_good: i64| {
            let epoch = map.entry(name.to_owned()).or_insert(Epoch { first_good, forget_at });
            epoch.first_good = epoch.first_good.max(first_good);
            epoch.forget_at = epoch.forget_at.max(forget_at);
        };
        match revocation {
            Revocation::Subject { subject, epoch } => raise(&mut maps.subjects, subject, *epoch),
            Revocation::Client { client_id, epoch } => raise(&mut maps.clients, client_id, *epoch),
            Revocation::Role { role, epoch } => raise(&mut maps.roles, role, *epoch),
            Revocation::Session { sid, until } => {
                let known = maps.sessions.entry(sid.clone()).or_insert(*until);
                *known = (*known).max(*until);
            }
        }
    }

    pub(super) fn prune(&self, now: i64) {
        let mut maps = self.0.maps.write().expect("no holder panics");
        maps.subjects.retain(|_, epoch| epoch.forget_at > now);
        maps.clients.retain(|_, epoch| epoch.forget_at > now);
        maps.roles.retain(|_, epoch| epoch.forget_at > now);
        maps.sessions.retain(|_, until| *until > now);
    }
}

/// The client of a dedicated connection.
pub(super) fn open(config: &config::Redis) -> anyhow::Result<redis::Client> {
    // The driver's own message may repeat the URL, and with it the password.
    redis::Client::open(config.url.expose_secret())
        .map_err(|_| anyhow::anyhow!("configuration key `redis.url` is not a redis:// or rediss:// URL"))
}

pub(super) fn unix_now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(sub: &str, client_id: &str, epoch: i64, sid: Option<&str>) -> Claims {
        Claims {
            iss: "i".into(),
            sub: sub.into(),
            aud: vec!["kronos".into()],
            exp: 0,
            iat: 0,
            nbf: None,
            jti: "j".into(),
            sid: sid.map(Into::into),
            client_id: client_id.into(),
            roles: vec![],
            permissions: vec![],
            epoch,
            username: None,
            scope: None,
            act: None,
            cnf: None,
        }
    }

    #[test]
    fn an_earlier_epoch_is_revoked_and_the_present_one_is_not() {
        let revocations = Revocations::none();
        revocations.apply(&Revocation::Subject { subject: "ada".into(), epoch: 3 });
        revocations.apply(&Revocation::Subject { subject: "ada".into(), epoch: 2 });
        assert!(revocations.is_revoked(&claims("ada", "web", 2, None)));
        assert!(!revocations.is_revoked(&claims("ada", "web", 3, None)));
        assert!(!revocations.is_revoked(&claims("bob", "web", 0, None)));
    }

    #[test]
    fn a_clients_epoch_ends_its_own_tokens_not_its_users() {
        let revocations = Revocations::none();
        revocations.apply(&Revocation::Client { client_id: "web".into(), epoch: 1 });
        assert!(revocations.is_revoked(&claims("web", "web", 0, None)));
        assert!(!revocations.is_revoked(&claims("ada", "web", 0, None)));
        assert!(revocations.is_revoked(&claims("web", "desk", 0, None)), "nor may anybody act for it any more");
    }

    #[test]
    fn a_roles_epoch_ends_the_tokens_that_name_it() {
        let revocations = Revocations::none();
        let holder = |epoch| Claims { roles: vec!["guest".into(), "desk".into()], ..claims("ada", "web", epoch, None) };
        assert_eq!(revocations.role_epoch(["desk"]), None);
        revocations.apply(&Revocation::Role { role: "desk".into(), epoch: 7 });
        assert!(revocations.is_revoked(&holder(6)) && !revocations.is_revoked(&holder(7)));
        assert!(!revocations.is_revoked(&claims("ada", "web", 6, None)), "who does not have it is not concerned");
        assert_eq!(revocations.role_epoch(["guest", "desk"]), Some(7));
        revocations.prune(unix_now() + LONGEST_TOKEN_LIFE_SECONDS + 5);
        assert!(!revocations.is_revoked(&holder(6)));
    }

    #[test]
    fn one_token_ends_by_its_own_id_and_an_actors_with_the_actors_session() {
        let revocations = Revocations::none();
        let plain = claims("ada", "web", 9, Some("t"));
        let acting = Claims {
            jti: "k".into(),
            act: Some(super::super::claims::Actor { sub: "bob".into(), sid: Some("b".into()) }),
            ..plain.clone()
        };
        revocations.apply(&Revocation::Session { sid: "b".into(), until: 100 });
        assert!(revocations.is_revoked(&acting) && !revocations.is_revoked(&plain));
        revocations.apply(&Revocation::Session { sid: "j".into(), until: 100 });
        assert!(revocations.is_revoked(&plain));
    }

    #[test]
    fn a_session_ends_all_its_tokens_until_it_may_be_forgotten() {
        let revocations = Revocations::none();
        revocations.apply(&Revocation::Session { sid: "s".into(), until: 100 });
        assert!(revocations.is_revoked(&claims("ada", "web", 9, Some("s"))));
        assert!(!revocations.is_revoked(&claims("ada", "web", 9, Some("t"))));
        revocations.prune(99);
        assert!(revocations.is_revoked(&claims("ada", "web", 9, Some("s"))));
        revocations.prune(100);
        assert!(!revocations.is_revoked(&claims("ada", "web", 9, Some("s"))));
    }

    #[test]
    fn an_epoch_is_forgotten_only_after_the_longest_token_life() {
        let revocations = Revocations::none();
        revocations.apply(&Revocation::Subject { subject: "ada".into(), epoch: 3 });
        revocations.prune(unix_now() + LONGEST_TOKEN_LIFE_SECONDS - 5);
        assert!(revocations.is_revoked(&claims("ada", "web", 2, None)));
        revocations.prune(unix_now() + LONGEST_TOKEN_LIFE_SECONDS + 5);
        assert!(!revocations.is_revoked(&claims("ada", "web", 2, None)));
    }
}
