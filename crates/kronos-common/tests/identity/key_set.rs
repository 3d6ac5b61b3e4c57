//! How the key set is read: late, once for many, and not for strangers.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse as _, routing::get};
use kronos_common::{
    config::Identity,
    identity::{JwkSet, Revocations, Verifier},
    service::Context,
};
use kronos_testkit::{Issuer, wait_until};

/// A JWKS endpoint that counts and can be changed; `None` answers 500.
#[derive(Clone, Default)]
struct Endpoint {
    set: Arc<Mutex<Option<JwkSet>>>,
    count: Arc<AtomicUsize>,
}

impl Endpoint {
    fn router(&self) -> Router {
        let endpoint = self.clone();
        let answer = move || {
            let endpoint = endpoint.clone();
            async move {
                endpoint.count.fetch_add(1, Ordering::SeqCst);
                match endpoint.set.lock().unwrap().clone() {
                    Some(set) => Json(set).into_response(),
                    None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }
        };
        Router::new().route("/jwks.json", get(answer))
    }

    async fn verifier(&self, issuer: &Issuer) -> Verifier {
        let address = crate::serve(self.router()).await;
        let config = Identity { jwks_url: format!("http://{address}/jwks.json"), ..issuer.config() };
        Verifier::connect(&config, Revocations::none(), &Context::detached("test")).await.unwrap()
    }

    fn publish(&self, set: JwkSet) {
        *self.set.lock().unwrap() = Some(set);
    }
}

#[tokio::test]
async fn a_set_that_comes_late_is_taken_when_it_comes() {
    let issuer = Issuer::start().await;
    let endpoint = Endpoint::default();
    let verifier = endpoint.verifier(&issuer).await;
    let token = issuer.token("ada", &[]);
    assert_eq!(verifier.verify(&token).await.unwrap_err().status(), 503);
    endpoint.publish(issuer.key_set());
    wait_until("the key set is read", async || verifier.verify(&token).await.is_ok()).await;
}

#[tokio::test]
async fn a_new_key_is_fetched_by_the_first_token_that_names_it() {
    let (old, new) = (Issuer::start().await, Issuer::start().await);
    let endpoint = Endpoint::default();
    endpoint.publish(old.key_set());
    let verifier = endpoint.verifier(&old).await;
    let mut both = old.key_set();
    both.keys.extend(new.key_set().keys);
    endpoint.publish(both);
    let tokens: Vec<_> = (0..50).map(|_| new.token("ada", &[])).collect();
    let all = futures::future::join_all(tokens.iter().map(|token| verifier.verify(token))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(endpoint.count.load(Ordering::SeqCst), 2, "one at the start, one for all fifty");
    assert!(verifier.verify(&old.token("ada", &[])).await.is_ok());
}

#[tokio::test]
async fn strangers_keys_cause_one_fetch_in_a_cool_down() {
    let issuer = Issuer::start().await;
    let endpoint = Endpoint::default();
    endpoint.publish(issuer.key_set());
    let verifier = endpoint.verifier(&issuer).await;
    for number in 0..50 {
        let token = issuer.build("ada").header("kid", format!("stranger-{number}")).sign();
        assert_eq!(verifier.verify(&token).await.unwrap_err().code(), "token_invalid");
    }
    assert_eq!(endpoint.count.load(Ordering::SeqCst), 2, "one at the start, one for all strangers");
}

#[tokio::test]
async fn the_last_good_set_stays_when_the_next_is_none() {
    let issuer = Issuer::start().await;
    let endpoint = Endpoint::default();
    endpoint.publish(issuer.key_set());
    let verifier = endpoint.verifier(&issuer).await;
    endpoint.publish(JwkSet { keys: vec![] });
    let stranger = issuer.build("ada").header("kid", "stranger").sign();
    assert!(verifier.verify(&stranger).await.is_err());
    assert_eq!(endpoint.count.load(Ordering::SeqCst), 2);
    assert!(verifier.verify(&issuer.token("ada", &[])).await.is_ok());
}
