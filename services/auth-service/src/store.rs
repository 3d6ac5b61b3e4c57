//! Every SQL statement, and the failure counters in Redis. No HTTP, no rule.

pub(crate) mod api_keys;
pub(crate) mod attempts;
pub(crate) mod audit;
pub(crate) mod browsers;
pub(crate) mod clients;
pub(crate) mod codes;
pub(crate) mod credentials;
pub(crate) mod delegations;
pub(crate) mod devices;
pub(crate) mod external_links;
pub(crate) mod factors;
pub(crate) mod families;
pub(crate) mod grants;
pub(crate) mod keys;
pub(crate) mod links;
pub(crate) mod nodes;
pub(crate) mod passkeys;
pub(crate) mod privacy;
pub(crate) mod registrations;
pub(crate) mod replay;
pub(crate) mod sessions;
pub(crate) mod throttle;

use sqlx::PgConnection;

/// Whether a text can be in a row at all: PostgreSQL's text has no U+0000, and nobody is looked up by it.
fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// Locks that make instances take turns; held until the end of the transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Turn {
    Keys,
    Bootstrap,
}

/// Waits for the turn.
pub(crate) async fn take_turn(connection: &mut PgConnection, turn: Turn) -> sqlx::Result<()> {
    let name = match turn {
        Turn::Keys => "auth-service.keys",
        Turn::Bootstrap => "auth-service.bootstrap",
    };
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))").bind(name).execute(connection).await?;
    Ok(())
}
