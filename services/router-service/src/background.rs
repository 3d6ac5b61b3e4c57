//! Requests that no client waits for: copies and refreshes. They go to an instance as others do, once: within the upstream's
//! bound and past its breaker, which learns from them; they pay nothing into the retry budget, and take nothing out.

use std::{rc::Rc, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::HeaderValue;
use kronos_common::{identity::Claims, trace::TraceContext};

use crate::{
    attempts::{Prepared, note_answer, note_failure},
    balance::Asked,
    body::RequestBody,
    breaker::Pass,
    concurrency::Seat,
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

/// Leave to ask an upstream once.
pub struct Leave {
    pass: Option<Pass>,
    seat: Option<Seat>,
}

impl Leave {
    /// `None`: its breaker is open, or it has as much to do as it bears.
    pub fn of(upstream: &Upstream, now: u64) -> Option<Self> {
        let seat = match &upstream.concurrency {
            Some(concurrency) => Some(concurrency.enter()?),
            None => None,
        };
        let pass = match &upstream.breaker {
            Some(breaker) => Some(breaker.enter(now).ok()?),
            None => None,
        };
        Some(Self { pass, seat })
    }
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
    pub async fn send(
        &self,
        core: &Rc<Core>,
        upstream: &Upstream,
        leave: &Leave,
        patience: Duration,
    ) -> anyhow::Result<Reply> {
        let now = core.now_us();
        let asked = Asked { now, hash: self.prepared.hash, except: &[] };
        let picked = upstream.balancer.pick(&asked, |below| rand::random_range(0..below.max(1)));
        let instance = Arc::clone(picked.context("there is no instance")?);
        let _in_flight = instance.enter();
        let outgoing = self.prepared.outgoing(&self.request_id, &self.trace, self.subject.as_deref(), self.way);
        let body = self.body.clone().map(RequestBody::kept);
        let sent = core.forwarder.send(upstream.protocol, &instance, &outgoing, body);
        let (error, kind) = match tokio::time::timeout(patience, sent).await {
            Ok(Ok(reply)) => {
                let asked = (leave.pass.as_ref(), leave.seat.as_ref());
                note_answer(core, upstream, &instance, asked, reply.status, now);
                return Ok(reply);
            }
            Ok(Err(Failure::NeverSent(error))) => (error, "connect"),
            Ok(Err(Failure::Broken(error))) => (error, "broken"),
            Err(elapsed) => (elapsed.into(), "timeout"),
        };
        note_failure(core, upstream, &instance, leave.pass.as_ref(), kind);
        Err(error)
    }
}
