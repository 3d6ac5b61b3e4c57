//! A service's own access token (client credentials, RFC 6749 section 4.4): fetched when it is first needed, renewed before
//! it ends, by one fetch at a time. An old token that is still good is used while auth-service is away.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::{Mutex, RwLock};

use crate::config::Identity;

/// A token is renewed when this much of its life is over.
const RENEW_AT: f64 = 0.75;
/// A token that ends sooner than this is not handed out any more.
const TOO_OLD: Duration = Duration::from_secs(5);
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed renewal the old token is used so long before the next try.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A token and how long it lives from now.
pub type Issued = (String, Duration);
type Issue = Arc<dyn Fn() -> BoxFuture<'static, anyhow::Result<Issued>> + Send + Sync>;

/// The token under which this service calls others; cheap to clone.
#[derive(Clone)]
pub struct ServiceToken(Arc<Inner>);

struct Inner {
    source: Source,
    held: RwLock<Option<Held>>,
    /// The one fetch; with the time of the last one that failed.
    fetching: Mutex<Option<Instant>>,
}

enum Source {
    Endpoint { http: reqwest::Client, url: String, client_id: String, secret: SecretString },
    Own(Issue),
}

#[derive(Clone)]
struct Held {
    token: Arc<str>,
    renew_at: Instant,
    ends_at: Instant,
}

/// The answer of the token endpoint, as far as it matters here.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
}

impl fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceToken").finish_non_exhaustive()
    }
}

impl ServiceToken {
    /// The token of the client that `[identity]` names. Nothing is fetched yet.
    ///
    /// # Errors
    /// An HTTP client that can't be built.
    pub fn new(config: &Identity) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(FETCH_TIMEOUT)
            .build()
            .context("build the HTTP client for the service token")?;
        Ok(Self::of(Source::Endpoint {
            http,
            url: format!("{}/oauth/token", config.auth_url.trim_end_matches('/')),
            client_id: config.client_id.clone(),
            secret: config.client_secret.clone(),
        }))
    }

    /// Tokens that `issue` makes: for auth-service, which signs its own, and for tests.
    pub fn own(issue: impl Fn() -> BoxFuture<'static, anyhow::Result<Issued>> + Send + Sync + 'static) -> Self {
        Self::of(Source::Own(Arc::new(issue)))
    }

    fn of(source: Source) -> Self {
        Self(Arc::new(Inner { source, held: RwLock::new(None), fetching: Mutex::new(None) }))
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// There is none, and auth-service can't be reached or refuses the client.
    pub async fn get(&self) -> anyhow::Result<Arc<str>> {
        if let Some(token) = self.held(|held| held.renew_at).await {
            return Ok(token);
        }
        let mut failed_at = self.0.fetching.lock().await;
        if let Some(token) = self.held(|held| held.renew_at).await {
            return Ok(token);
        }
        let usable = self.held(|held| held.ends_at).await;
        if let Some(token) = &usable
            && failed_at.is_some_and(|at| at.elapsed() < TRY_AGAIN_AFTER)
        {
            return Ok(Arc::clone(token));
        }
        match self.fetch().await {
            Ok(held) => {
                *failed_at = None;
                let token = Arc::clone(&held.token);
                *self.0.held.write().await = Some(held);
                Ok(token)
            }
            Err(error) => {
                *failed_at = Some(Instant::now());
                usable.ok_or(error)
            }
        }
    }

    /// Forgets a token that another service refused, so that the next [`get`](Self::get) fetches.
    pub async fn refused(&self, token: &str) {
        let mut held = self.0.held.write().await;
        if held.as_ref().is_some_and(|held| &*held.token == token) {
            *held = None;
        }
    }

    async fn held(&self, until: impl Fn(&Held) -> Instant) -> Option<Arc<str>> {
        let held = self.0.held.read().await;
        held.as_ref().filter(|held| until(held) > Instant::now()).map(|held| Arc::clone(&held.token))
    }

    async fn fetch(&self) -> anyhow::Result<Held> {
        let asked_at = Instant::now();
        let (token, life) = match &self.0.source {
            Source::Own(issue) => issue().await?,
            Source::Endpoint { http, url, client_id, secret } => {
                let response = http
                    .post(url)
                    .basic_auth(client_id, Some(secret.expose_secret()))
                    .form(&[("grant_type", "client_credentials")])
                    .send()
                    .await
                    .context("ask auth-service for the service token")?;
                if !response.status().is_success() {
                    bail!("auth-service refuses the client {client_id}: {}", response.status());
                }
                let answer: Answer = response.json().await.context("read the service token")?;
                (answer.access_token, Duration::from_secs(answer.expires_in))
            }
        };
        let ends_at = asked_at + life.saturating_sub(TOO_OLD);
        Ok(Held {
            token: token.into(),
            renew_at: asked_at + life.mul_f64(RENEW_AT).min(life.saturating_sub(TOO_OLD)),
            ends_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;

    use super::*;

    fn counting(life: Duration) -> (ServiceToken, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let issued = Arc::clone(&count);
        let token = ServiceToken::own(move || {
            let number = issued.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                Ok((format!("token-{number}"), life))
            }
            .boxed()
        });
        (token, count)
    }

    #[tokio::test]
    async fn many_callers_cause_one_fetch() {
        let (token, count) = counting(Duration::from_secs(600));
        let all = futures::future::join_all((0..20).map(|_| token.get())).await;
        assert!(all.into_iter().all(|token| &*token.expect("issued") == "token-0"));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_refused_token_is_fetched_anew_once() {
        let (token, count) = counting(Duration::from_secs(600));
        let first = token.get().await.expect("issued");
        token.refused(&first).await;
        assert_eq!(&*token.get().await.expect("issued"), "token-1");
        token.refused(&first).await;
        assert_eq!(&*token.get().await.expect("issued"), "token-1", "the refusal of an older token changes nothing");
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_token_about_to_end_is_not_handed_out() {
        let (token, count) = counting(Duration::from_secs(5));
        token.get().await.expect("issued");
        token.get().await.expect("issued");
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
