//! Who is this client? One place for every endpoint that OAuth clients come to. Rows are remembered for a moment; a revocation
//! of the client, which every instance hears of, makes them be read again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use kronos_common::problem::Problem;
use moka::sync::Cache;
use serde_json::json;
use uuid::Uuid;

use super::assertion;
use crate::{
    App,
    clients::{AuthMethod, Client, GrantType, Registered, StoredSecrets},
    keys::Algorithm,
    nodes::{NodeJwk, NodeKey},
    store,
};

/// A change without a revocation, such as another name, is seen everywhere after so long.
const REMEMBER: Duration = Duration::from_secs(10);
/// A secret that does not fit may be newer than what is remembered; looked up at most so often.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const MOST: u64 = 10_000;

/// Clients that were read lately.
pub(crate) struct ClientCache(Cache<String, Remembered>);

#[derive(Clone)]
struct Remembered {
    registered: Arc<Registered>,
    at: Instant,
}

impl ClientCache {
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(MOST).time_to_live(REMEMBER).build())
    }

    /// Reads the client again when it is asked for next.
    pub(crate) fn forget(&self, client_id: &str) {
        self.0.invalidate(client_id);
    }
}

/// What a client shows of itself.
pub(crate) struct Shown {
    pub client_id: String,
    pub proof: Proof,
}

/// By what.
pub(crate) enum Proof {
    /// In every reading that the way it was sent allows; one of them must fit.
    Secrets(Vec<String>),
    /// A signed assertion (RFC 7523).
    Assertion(String),
    /// Nothing but the name.
    Nothing,
}

/// The client of that name, perhaps from memory.
///
/// # Errors
/// The database.
pub(crate) async fn find(app: &App, client_id: &str) -> Result<Option<Arc<Registered>>, Problem> {
    Ok(look_up(app, client_id, None).await?.map(|remembered| remembered.registered))
}

async fn look_up(app: &App, client_id: &str, younger_than: Option<Duration>) -> Result<Option<Remembered>, Problem> {
    let known = app.clients.0.get(client_id).filter(|known| {
        let moved = app.revocations.client_epoch(client_id).is_some_and(|epoch| epoch > known.registered.client.epoch);
        !moved && younger_than.is_none_or(|age| known.at.elapsed() < age)
    });
    if known.is_some() {
        return Ok(known);
    }
    let at = Instant::now();
    let Some(registered) = store::clients::registered(&app.pool, client_id).await? else {
        app.clients.forget(client_id);
        // Not remembered: a node comes once in the life of a token, and its keys end by the clock.
        let node = node_as_client(app, client_id).await?;
        return Ok(node.map(|registered| Remembered { registered: Arc::new(registered), at }));
    };
    let remembered = Remembered { registered: Arc::new(registered), at };
    app.clients.0.insert(client_id.to_owned(), remembered.clone());
    Ok(Some(remembered))
}

/// The client that showed itself; `None` for an unknown one, a wrong secret, or another way than it is registered for.
///
/// # Errors
/// The database.
pub(crate) async fn authenticate(app: &App, shown: &Shown) -> Result<Option<Arc<Registered>>, Problem> {
    let Some(known) = look_up(app, &shown.client_id, None).await? else {
        return Ok(None);
    };
    if accepts(app, &known.registered, &shown.proof).await? {
        return Ok(Some(known.registered));
    }
    // Perhaps it was changed a moment ago.
    let fresh = match look_up(app, &shown.client_id, Some(LOOK_AGAIN)).await? {
        Some(fresh) if fresh.at > known.at => fresh.registered,
        _ => return Ok(None),
    };
    Ok(if accepts(app, &fresh, &shown.proof).await? { Some(fresh) } else { None })
}

async fn accepts(app: &App, registered: &Registered, proof: &Proof) -> Result<bool, Problem> {
    let method = registered.client.token_endpoint_auth_method;
    Ok(match proof {
        Proof::Secrets(secrets) if method.has_secret() => {
            let now = Utc::now();
            secrets.iter().any(|secret| registered.secrets.accept(secret, now))
        }
        Proof::Assertion(text) if method == AuthMethod::PrivateKeyJwt => {
            let signer = assertion::accepts(app, &registered.client, text).await?;
            if let Some(key_id) = signer.as_deref().filter(|_| registered.is_node) {
                store::nodes::seen(&app.pool, key_id, Utc::now()).await?;
            }
            signer.is_some()
        }
        Proof::Nothing => method == AuthMethod::None,
        _ => false,
    })
}

/// Whether a client may do this itself.
pub(crate) fn may(client: &Client, permission: &str) -> bool {
    client.permissions.iter().any(|granted| kronos_common::identity::permission_matches(granted, permission))
}

/// A node that comes like a client: its id, its good keys, what nodes may do. A client of the same id would come first.
async fn node_as_client(app: &App, client_id: &str) -> Result<Option<Registered>, Problem> {
    let Ok(id) = Uuid::try_parse(client_id) else { return Ok(None) };
    // The subject of its tokens is this text, so it is written in one way.
    let node = store::nodes::find(&app.pool, id).await?.filter(|node| !node.disabled && client_id == id.to_string());
    let Some(node) = node else { return Ok(None) };
    let now = Utc::now();
    let keys = store::nodes::keys(&app.pool, id).await?;
    let keys: Vec<NodeJwk> = keys.iter().filter(|key| key.is_good(now)).map(NodeKey::jwk).collect();
    let client = Client {
        client_id: client_id.to_owned(),
        name: node.name,
        grant_types: vec![GrantType::ClientCredentials.name().to_owned()],
        permissions: app.accounts.node_permissions.clone(),
        scoped_permissions: sqlx::types::Json(Vec::new()),
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
        token_endpoint_auth_method: AuthMethod::PrivateKeyJwt,
        require_pkce: true,
        jwks: Some(json!({ "keys": keys })),
        jwks_uri: None,
        scopes: Vec::new(),
        resources: Vec::new(),
        first_party: false,
        id_token_signed_response_alg: Algorithm::EdDsa,
        dpop_bound_access_tokens: false,
        epoch: node.epoch,
        created_by: node.created_by,
        created_at: node.created_at,
        updated_at: node.created_at,
        secret_rotated_at: None,
    };
    let secrets = StoredSecrets { secret_hash: None, previous_secret_hash: None, previous_valid_until: None };
    Ok(Some(Registered { client, secrets, registration_token_hash: None, is_node: true }))
}
