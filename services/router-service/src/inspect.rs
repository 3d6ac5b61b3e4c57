//! Looks at a request before any of it is sent on: the digest that a signature covers, and the route's filter. Only for
//! requests that need it, and never more of a body than a stated part is held.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kronos_common::problem::Problem;

use crate::{
    edge::filter::{Looked, Mode},
    proxy::{Arrived, Core},
    table::Route,
};

/// What was read of a body already, in its order.
#[derive(Debug)]
pub struct Ahead {
    pub frames: VecDeque<Frame<Bytes>>,
    /// Of the whole body.
    pub hint: SizeHint,
    pub bytes: usize,
    /// There is no more.
    is_whole: bool,
}

impl Ahead {
    /// Reads until there are more than `most` bytes, or no more. `pause`: the longest wait for the next ones.
    async fn read(body: &mut Incoming, most: usize, pause: Duration) -> Result<Self, Problem> {
        let mut ahead = Self { frames: VecDeque::new(), hint: body.size_hint(), bytes: 0, is_whole: false };
        while ahead.bytes <= most {
            let next = tokio::time::timeout(pause, body.frame()).await.map_err(|_| {
                let detail = "the body did not come in time";
                Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
            })?;
            let Some(frame) = next else {
                ahead.is_whole = true;
                break;
            };
            let frame =
                frame.map_err(|_| Problem::bad_request("incomplete_body", "the body ended before it was complete"))?;
            ahead.bytes += frame.data_ref().map_or(0, Bytes::len);
            ahead.frames.push_back(frame);
        }
        Ok(ahead)
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.frames.iter().filter_map(|frame| frame.data_ref()).map(|data| &**data)
    }

    fn beginning(&self, most: usize) -> Vec<u8> {
        let mut beginning = Vec::with_capacity(most.min(self.bytes));
        for part in self.parts() {
            beginning.extend_from_slice(&part[..part.len().min(most - beginning.len())]);
        }
        beginning
    }
}

/// Refuses a body that is not the one that was signed, and what the route's filter refuses.
///
/// # Errors
/// 401 `digest_mismatch`, 403 `request_filtered`, 408, 413 `body_too_large`.
pub async fn inspect(core: &Core, route: &Route, arrived: &mut Arrived) -> Result<(), Problem> {
    let config = &core.gateway.config;
    let filter = route.edge.as_ref().and_then(|edge| edge.filter.as_ref());
    let looked = filter.map_or(0, |filter| filter.body_bytes);
    let held = if arrived.digest.is_some() { config.signatures.body_limit_bytes } else { 0 };
    let most = looked.max(held);
    if most > 0 && !arrived.body.is_end_stream() {
        let pause = Duration::from_millis(config.gateway.body_idle_timeout_ms);
        let read = Ahead::read(&mut arrived.body, most, pause);
        // However slowly it trickles in, a body that is waited for has the time of an answer.
        let ahead = tokio::time::timeout(route.timeout.max(pause), read).await.unwrap_or_else(|_| {
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not come in time"))
        })?;
        arrived.ahead = Some(Box::new(ahead));
    }
    let ahead = arrived.ahead.as_deref();
    if let Some(digest) = &arrived.digest {
        if ahead.is_some_and(|ahead| !ahead.is_whole) {
            let detail = format!("a signed body has at most {held} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
        }
        let is_it = match ahead {
            Some(ahead) => digest.is_of(ahead.parts()),
            None => digest.is_of(std::iter::empty()),
        };
        if !is_it {
            return Err(Problem::unauthorized(
                "digest_mismatch",
                "the body is not the one that `Content-Digest` names",
            ));
        }
    }
    let Some(filter) = filter else { return Ok(()) };
    let body = ahead.map(|ahead| ahead.beginning(looked)).unwrap_or_default();
    let finding = filter.look(&Looked {
        method: &arrived.parts.method,
        path: arrived.parts.uri.path(),
        query: arrived.parts.uri.query(),
        headers: &arrived.parts.headers,
        body: &body,
    });
    if finding.score < filter.threshold {
        return Ok(());
    }
    let outcome = match filter.mode {
        Mode::Block => "blocked",
        Mode::Monitor => "monitored",
    };
    core.gateway.metrics.filtered.with_label_values(&[&*route.name, outcome]).inc();
    tracing::info!(
        route = &*route.name,
        score = finding.score,
        rules = finding.rules.join(" "),
        request_id = arrived.exchange.request_id.to_str().unwrap_or_default(),
        outcome,
        "request looks like an attack"
    );
    match filter.mode {
        Mode::Monitor => Ok(()),
        Mode::Block => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "request_filtered",
            "the request looks like an attack: it is not taken",
        )),
    }
}
