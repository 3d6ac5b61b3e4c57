//! auth-service from outside: its real listener, real PostgreSQL, Redis and RabbitMQ; user-service is played by a small server.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod api_keys;
mod attacks;
mod audit;
mod authenticator;
mod authorize;
mod authzen;
mod browser;
mod browser_attacks;
mod checks;
mod clients;
mod credentials;
mod device;
mod discovery;
mod events;
mod external;
mod factors;
mod fake_users;
mod harness;
mod keys;
mod login;
mod logout;
mod mailbox;
mod network;
mod nodes;
mod oauth;
mod oauth_sessions;
mod passkeys;
mod passwords;
mod refresh;
mod refresh_token;
mod registration;
mod sessions;
mod throttle;
mod token;
mod webauthn;
