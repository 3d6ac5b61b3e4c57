//! The clients that Kronos knows by name, each with just the permissions that it needs: the six callers of the ecosystem and
//! the seven services.

/// What this service asks for, declared when it starts: each with what it allows.
pub(crate) const PERMISSIONS: &[(&str, &str)] = &[
    ("access:check", "Ask whether somebody may do something"),
    ("audit:read", "Read the audit trail of security"),
    ("clients:read", "See OAuth clients"),
    ("clients:register", "Register OAuth clients dynamically"),
    ("clients:write", "Make, change and remove OAuth clients"),
    ("credentials:reset", "Send links that reset passwords"),
    ("credentials:write", "Set anybody's name and password"),
    ("factors:write", "Remove anybody's second factors"),
    ("invitations:read", "See invitations"),
    ("invitations:write", "Invite people"),
    ("nodes:read", "See nodes and their keys"),
    ("nodes:write", "Admit, change and remove nodes"),
    ("sessions:write", "End anybody's sessions"),
    ("tokens:verify", "Ask whether a token is good"),
];

/// A client to make at the first start.
#[derive(Debug)]
pub struct KnownClient {
    pub client_id: &'static str,
    pub name: &'static str,
    pub permissions: &'static [&'static str],
}

const fn known(client_id: &'static str, name: &'static str, permissions: &'static [&'static str]) -> KnownClient {
    KnownClient { client_id, name, permissions }
}

/// All of them.
pub const KNOWN_CLIENTS: &[KnownClient] = &[
    known(
        "hyperion",
        "Hypérion",
        &[
            "messages:publish",
            "messages:subscribe",
            "topics:read",
            "topics:manage",
            "logs:write",
            "access:check",
            "users:read",
            "cache:read",
            "cache:write",
        ],
    ),
    known(
        "ouranos-crm",
        "Ouranos CRM",
        &["access:check", "tokens:verify", "users:read", "users:write", "roles:read", "grants:read"],
    ),
    known(
        "ouranos-desk",
        "Ouranos Desk",
        &[
            "logs:read",
            "access:check",
            "users:read",
            "messages:publish",
            "messages:subscribe",
            // Who lost the password, or the second factor.
            "credentials:reset",
            "factors:write",
        ],
    ),
    known("gaia", "Gaia", &["logs:read", "logs:write", "messages:publish", "messages:subscribe"]),
    known(
        "hephaistos",
        "Héphaïstos",
        &["access:check", "messages:publish", "messages:subscribe", "topics:read", "topics:manage"],
    ),
    known("hermes", "Hermès", &["access:check", "users:read", "grants:read", "logs:read", "messages:subscribe"]),
    known("auth-service", "auth-service", &["logs:write"]),
    known("user-service", "user-service", &["credentials:write", "logs:write"]),
    known("log-service", "log-service", &["logs:write"]),
    known("cache-service", "cache-service", &["logs:write"]),
    known(
        "router-service",
        "router-service",
        &[
            "logs:write",
            "tokens:verify",
            "nodes:read",
            // What it has accepted to pass on later.
            "messages:publish",
            "messages:subscribe",
            "topics:manage",
            "requests:delegate",
        ],
    ),
    known("messaging-service", "messaging-service", &["logs:write", "access:check"]),
    known("database-admin", "database-admin", &["logs:write"]),
];

/// The known client of that id.
pub fn find(client_id: &str) -> Option<&'static KnownClient> {
    KNOWN_CLIENTS.iter().find(|client| client.client_id == client_id)
}
