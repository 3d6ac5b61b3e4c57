//! Where attributes that are sealed are kept: encrypted in one envelope for each person, beside blind indexes of their
//! values, by which filters find them. Without a key there are no sealed attributes.

use kronos_common::{
    config,
    problem::{Problem, Result},
    seal::Keyring,
};
use serde_json::Value;
use uuid::Uuid;

use crate::{attributes::Schema, scim::Document, users::User};

/// Seals and opens; `None` without keys.
pub(crate) struct Sealer(Option<Keyring>);

/// Somebody's attributes as they are kept.
pub(crate) struct Kept {
    pub(crate) plain: Document,
    pub(crate) sealed: Option<Vec<u8>>,
    pub(crate) blind: Vec<String>,
}

impl Sealer {
    /// # Errors
    /// Keys that cannot be.
    pub(crate) fn new(config: &config::Sealing) -> anyhow::Result<Self> {
        let keyring = if config.active.is_empty() { None } else { Some(Keyring::new(config)?) };
        Ok(Self(keyring))
    }

    /// The keys.
    ///
    /// # Errors
    /// 503 `no_sealing_key`.
    pub(crate) fn keyring(&self) -> Result<&Keyring> {
        self.0.as_ref().ok_or_else(|| {
            let detail = "this installation has no sealing key: set `sealing` first";
            Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "no_sealing_key", detail)
        })
    }

    /// The id of the active key, if there are keys.
    pub(crate) fn active_id(&self) -> Option<&str> {
        self.0.as_ref().map(Keyring::active_id)
    }

    /// Puts the sealed attributes of a person, as it was read, beside the others.
    ///
    /// # Errors
    /// 500: a key is missing, or the envelope is somebody else's.
    pub(crate) fn open(&self, user: &mut User) -> Result<()> {
        if let Some(sealed) = &user.sealed {
            let opened = self.keyring()?.open(sealed, &whose(user.id)).map_err(Problem::internal)?;
            let opened: Document = serde_json::from_slice(&opened).map_err(Problem::internal)?;
            user.sealed_names = opened.keys().cloned().collect();
            user.attributes.0.extend(opened);
        }
        Ok(())
    }

    /// All of these people, opened.
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub(crate) fn open_all(&self, users: &mut [User]) -> Result<()> {
        users.iter_mut().try_for_each(|user| self.open(user))
    }

    /// Makes of attributes what is kept of them.
    ///
    /// # Errors
    /// 503 `no_sealing_key`.
    pub(crate) fn seal(&self, schema: &Schema, id: Uuid, attributes: Document) -> Result<Kept> {
        let (plain, secret) = schema.split(attributes);
        if secret.is_empty() {
            return Ok(Kept { plain, sealed: None, blind: Vec::new() });
        }
        let keyring = self.keyring()?;
        let mut blind = Vec::new();
        for (name, value) in &secret {
            blind.push(name.clone());
            let values = match value {
                Value::Array(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            blind.extend(values.iter().filter_map(|value| terms(keyring, name, value).into_iter().next()));
        }
        let secret = serde_json::to_vec(&secret).map_err(Problem::internal)?;
        Ok(Kept { plain, sealed: Some(keyring.seal(&secret, &whose(id))), blind })
    }
}

/// What is kept of a value in `users.blind`: what is kept now first, then what was under older keys.
pub(crate) fn terms(keyring: &Keyring, name: &str, value: &Value) -> Vec<String> {
    let hashes = keyring.blind_indexes(value.to_string().as_bytes(), format!("attribute:{name}").as_bytes());
    hashes.into_iter().map(|hash| format!("{name}={hash}")).collect()
}

fn whose(id: Uuid) -> Vec<u8> {
    format!("attributes:{id}").into_bytes()
}
