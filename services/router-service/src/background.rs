//! Requests that no client waits for: copies and refreshes. They go to an instance as others do, once.

use std::{rc::Rc, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::HeaderValue;
use kronos_common::{identity::Claims, trace::TraceContext};

use crate::{
    attempts::Prepared,
    balance::Asked,
    body::RequestBody,
    exchange::Exchange,
    proxy::Core,
    table::Upstream,
    upstream::{Failure, Reply},
};

/// A request with all that its exchange knew.
pub struct Spare {
    pub prepared: Prepared,
    request_id: HeaderValue,
    trace: TraceContext,
    subject: Option<Arc<Claims>>,
    way: Option<&'static str>,
    body: Option<Bytes>,
}

impl Spare {
    /// `None`: its body was not kept whole.
    pub fn of(mut prepared: Prepared, exchange: &Exchange) -> Option<Self> {
        prepared.upgrade = None;
        let body = match &prepared.source {
            Some(source) => Some(source.copied()?),
            None => None,
        };
        Some(Self {
            prepared,
            request_id: exchange.request_id.clone(),
            trace: exchange.trace,
            subject: exchange.subject.clone(),
            way: exchange.way,
            body,
        })
    }

    /// Sends it to one instance; the answer's head has so long.
    ///
    /// # Errors
    /// There is no instance, or no answer.
    pub async fn send(&self, core: &Rc<Core>, upstream: &Upstream, patience: Duration) -> anyhow::Result<Reply> {
        let now = core.now_us();
        let asked = Asked { now, hash: self.prepared.hash, except: &[] };
        let picked = upstream.balancer.pick(&asked, |below| rand::random_range(0..below.max(1)));
        let instance = Arc::clone(picked.context("there is no instance")?);
        let _in_flight = instance.enter();
        let outgoing = self.prepared.outgoing(&self.request_id, &self.trace, self.subject.as_deref(), self.way);
        let body = self.body.clone().map(RequestBody::kept);
        let sent = core.forwarder.send(upstream.protocol, &instance, &outgoing, body);
        let reply = match tokio::time::timeout(patience, sent).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(Failure::NeverSent(error) | Failure::Broken(error))) => {
                instance.failed(core.now_us(), &upstream.balancer.rules);
                return Err(error);
            }
            Err(elapsed) => {
                instance.failed(core.now_us(), &upstream.balancer.rules);
                return Err(elapsed.into());
            }
        };
        let answered = core.now_us();
        instance.succeeded(answered, answered.saturating_sub(now));
        Ok(reply)
    }
}
