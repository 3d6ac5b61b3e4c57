//! The half that speaks to instances: one pool of connections per core. Nothing else knows which client it is, so that it can
//! be replaced.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::{body::RequestBody, config::Balance};

/// Idle connections that are kept to one instance, per core.
const MOST_IDLE: usize = 256;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The request was certainly not carried out: no connection, or it was closed before a byte was sent.
    NeverSent(anyhow::Error),
    /// It may have been carried out.
    Broken(anyhow::Error),
}

/// One core's connections to all instances.
#[derive(Debug, Clone)]
pub struct Forwarder {
    client: Client<HttpConnector, RequestBody>,
}

impl Forwarder {
    pub fn new(config: &Balance) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_millis(config.connect_timeout_ms)));
        // A peer that vanished without a word is noticed in about a minute, also on a silent stream.
        connector.set_keepalive(Some(Duration::from_secs(30)));
        connector.set_keepalive_interval(Some(Duration::from_secs(10)));
        connector.set_keepalive_retries(Some(3));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_millis(config.pool_idle_timeout_ms))
            .pool_max_idle_per_host(MOST_IDLE)
            .pool_timer(TokioTimer::new())
            .http1_max_headers(200)
            .http1_max_buf_size(128 * 1024)
            .build(connector);
        Self { client }
    }

    /// Sends a request whose URI names the instance; comes back with the answer's head.
    ///
    /// # Errors
    /// No answer.
    pub async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, Failure> {
        self.client.request(request).await.map_err(|error| {
            let unsent = error.is_connect() || {
                let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<hyper::Error>());
                source.is_some_and(hyper::Error::is_canceled)
            };
            if unsent { Failure::NeverSent(error.into()) } else { Failure::Broken(error.into()) }
        })
    }
}
