//! Payloads of topics that ask for it are sealed before they leave this process, for brokers, outbox and inventory alike, and
//! opened for those who may have them. What is sealed is a JSON string, so that nothing on the way has to know. A mark beside
//! the payload, which no publisher can set, says that it is sealed.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kronos_common::{
    config::Sealing,
    problem::{Problem, Result},
    seal::Keyring,
};

use crate::message::Message;

/// What is sealed: a value of another table or service does not open here.
const PURPOSE: &[u8] = b"message payload";

/// The keys, if there are any; clones share them.
#[derive(Clone)]
pub(crate) struct Vault(Option<Arc<Keyring>>);

impl Vault {
    /// # Errors
    /// See [`Keyring::new`].
    pub(crate) fn new(config: &Sealing) -> anyhow::Result<Self> {
        if config.active.is_empty() && config.keys.is_empty() {
            return Ok(Self(None));
        }
        Ok(Self(Some(Arc::new(Keyring::new(config)?))))
    }

    /// Whether topics may ask for it here.
    pub(crate) fn has_keys(&self) -> bool {
        self.0.is_some()
    }

    /// Seals a document.
    ///
    /// # Errors
    /// 500: the key that there was when the topic was made is gone.
    pub(crate) fn seal(&self, payload: &[u8]) -> Result<Vec<u8>> {
        let keyring = self.0.as_ref().ok_or_else(|| {
            Problem::internal(anyhow::anyhow!("a topic is encrypted, and there is no key in [sealing]"))
        })?;
        Ok(format!("\"{}\"", STANDARD.encode(keyring.seal(payload, PURPOSE))).into_bytes())
    }

    /// Opens a document; what can't be opened, as its key is not there, stays as it is.
    pub(crate) fn open<'a>(&self, sealed: bool, payload: &'a [u8]) -> Cow<'a, [u8]> {
        if !sealed {
            return Cow::Borrowed(payload);
        }
        match self.try_open(payload) {
            Ok(opened) => Cow::Owned(opened),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "a payload can't be opened");
                Cow::Borrowed(payload)
            }
        }
    }

    /// The same message, opened.
    pub(crate) fn opened(&self, message: Message) -> Message {
        if !message.sealed {
            return message;
        }
        let payload = self.open(true, &message.payload).into_owned().into();
        Message { payload, sealed: false, ..message }
    }

    fn try_open(&self, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        let keyring = self.0.as_ref().ok_or_else(|| anyhow::anyhow!("there is no key in [sealing]"))?;
        let text: &str = serde_json::from_slice(payload)?;
        Ok(keyring.open(&STANDARD.decode(text)?, PURPOSE)?.to_vec())
    }
}
