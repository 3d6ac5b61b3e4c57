//! What a first start creates: an upstream for each of the six services, and the routes that lead there. A default that was
//! deleted stays deleted; one that was edited stays as it is. The routes' rules are `route`'s.

use kronos_common::problem::Result;

use crate::{
    config::Services,
    route::{Authentication, Match, Name, PathMatch, RouteSpec},
    store::{Store, history::Actor},
    table::Snapshot,
    upstream_spec::{InstanceSpec, UpstreamSpec},
};

/// Upstream, and its URL in the configuration. Their documents are merged in this order.
pub fn upstreams(services: &Services) -> [(&'static str, &str); 6] {
    [
        ("auth-service", &services.auth_url),
        ("user-service", &services.user_url),
        ("log-service", &services.log_url),
        ("cache-service", &services.cache_url),
        ("messaging-service", &services.messaging_url),
        ("database-admin", &services.database_admin_url),
    ]
}

/// Longer waits than the default, in milliseconds: a long poll, a statement or backup.
const LONG_POLL_MS: u64 = 90_000;
const STATEMENT_MS: u64 = 120_000;
/// The largest file, in bytes.
const FILE_BYTES: u64 = 16 << 30;

struct Default {
    name: &'static str,
    path: &'static str,
    exact: bool,
    anonymous: bool,
    upstream: &'static str,
    timeout_ms: Option<u64>,
    body_limit_bytes: Option<u64>,
}

const fn below(name: &'static str, path: &'static str, upstream: &'static str) -> Default {
    Default { name, path, exact: false, anonymous: false, upstream, timeout_ms: None, body_limit_bytes: None }
}

const fn open(name: &'static str, path: &'static str, upstream: &'static str) -> Default {
    Default { name, path, exact: true, anonymous: true, upstream, timeout_ms: None, body_limit_bytes: None }
}

const ROUTES: [Default; 39] = [
    open("auth-login", "/auth/login", "auth-service"),
    open("auth-refresh", "/auth/refresh", "auth-service"),
    open("auth-register", "/auth/register", "auth-service"),
    // Who follows a mailed link has no token.
    Default { exact: false, ..open("auth-password-reset", "/auth/password-reset", "auth-service") },
    Default { exact: false, ..open("auth-verify-email", "/auth/verify-email", "auth-service") },
    // Who logs in with a passkey has no token yet.
    Default { exact: false, ..open("auth-passkeys-login", "/auth/passkeys/login", "auth-service") },
    open("oauth-token", "/oauth/token", "auth-service"),
    Default { exact: false, ..open("well-known", "/.well-known", "auth-service") },
    below("auth", "/auth", "auth-service"),
    below("access", "/access", "auth-service"),
    below("nodes", "/nodes", "auth-service"),
    // A node shows a claim code, or signs with its present key.
    open("nodes-enrol", "/nodes/enrol", "auth-service"),
    open("nodes-rotate", "/nodes/rotate", "auth-service"),
    // Clients and browsers show there what they have: a secret, an assertion, a cookie. auth-service looks at it itself.
    Default { anonymous: true, ..below("oauth", "/oauth", "auth-service") },
    // Where a person types the code that a device shows.
    Default { anonymous: true, ..below("device", "/device", "auth-service") },
    below("users", "/users", "user-service"),
    // A file of any number of people, read as it comes.
    Default {
        exact: true,
        body_limit_bytes: Some(FILE_BYTES),
        ..below("users-import", "/users/import", "user-service")
    },
    below("roles", "/roles", "user-service"),
    below("permissions", "/permissions", "user-service"),
    below("groups", "/groups", "user-service"),
    // Directories understand refusals in SCIM's own form only: user-service looks at the token itself.
    Default { anonymous: true, ..below("scim", "/scim", "user-service") },
    below("logs", "/logs", "log-service"),
    below("otlp-logs", "/v1/logs", "log-service"),
    below("cache", "/cache", "cache-service"),
    below("topics", "/topics", "messaging-service"),
    below("publish", "/publish", "messaging-service"),
    Default { timeout_ms: Some(LONG_POLL_MS), ..below("subscribe", "/subscribe", "messaging-service") },
    below("ack", "/ack", "messaging-service"),
    below("retry", "/retry", "messaging-service"),
    below("extend", "/extend", "messaging-service"),
    // Who asks may wait for the reply.
    Default { timeout_ms: Some(LONG_POLL_MS), ..below("request", "/request", "messaging-service") },
    below("requests", "/requests", "messaging-service"),
    below("reply", "/reply", "messaging-service"),
    Default { exact: true, ..below("asyncapi", "/asyncapi.json", "messaging-service") },
    below("schedules", "/schedules", "messaging-service"),
    below("queues", "/queues", "messaging-service"),
    below("dead-letters", "/dead-letters", "messaging-service"),
    below("messages", "/messages", "messaging-service"),
    Default { timeout_ms: Some(STATEMENT_MS), ..below("db", "/db", "database-admin") },
];

fn name(text: &str) -> Name {
    Name::try_from(text.to_owned()).expect("the defaults' names are valid")
}

impl Default {
    fn spec(&self) -> RouteSpec {
        let path = self.path.to_owned();
        let matches = Match::path(if self.exact { PathMatch::Exact(path) } else { PathMatch::Prefix(path) });
        RouteSpec {
            authentication: vec![if self.anonymous { Authentication::None } else { Authentication::Jwt }],
            timeout_ms: self.timeout_ms,
            body_limit_bytes: self.body_limit_bytes,
            ..RouteSpec::new(name(self.name), matches, name(self.upstream))
        }
    }
}

/// Creates what is missing and moves seeded upstreams whose configured URL changed. `None` if nothing was to do.
///
/// # Errors
/// A database that is away; a URL that is none.
pub async fn sow(store: &Store, services: &Services) -> Result<Option<Snapshot>> {
    let mut change = store.change(Actor::default()).await?;
    let mut changed = false;
    for (upstream, url) in upstreams(services) {
        let spec = UpstreamSpec::new(name(upstream), vec![InstanceSpec { url: url.to_owned(), weight: 1 }]);
        if !spec.check().is_empty() {
            return Err(kronos_common::problem::Problem::internal(anyhow::anyhow!(
                "section `services` of the configuration: `{url}` is not of the form http://host:port"
            )));
        }
        if !change.is_new_seed("upstream", &spec.name).await? {
            changed |= change.move_seeded_upstream(&spec, url).await?;
        } else if !change.has_upstream(&spec.name).await? {
            let stored = change.insert(None, &spec).await?;
            change.mark_seeded(stored.id, url).await?;
            changed = true;
        }
    }
    for default in &ROUTES {
        let spec = default.spec();
        let new = change.is_new_seed("route", &spec.name).await?;
        // Somebody may have made a route of that name, or taken the upstream away, before this version had the default.
        if new && !change.has_route(&spec.name).await? && change.has_upstream(&name(default.upstream)).await? {
            change.insert(None, &spec).await?;
            changed = true;
        }
    }
    if changed { change.commit(None).await.map(Some) } else { Ok(None) }
}
