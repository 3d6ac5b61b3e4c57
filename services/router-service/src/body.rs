//! Bodies as they stream through: counted, limited, and never collected. A request's body can be sent a second time as long
//! as nobody has begun to read it; an answer's body carries the request's record to its last byte.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{
    cache::flow::Storing, clock, connection::Connection, exchange::Exchange, inspect::Ahead, upstream::Answer,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request's body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    TooLarge,
    /// The client went away, or sent what is no body.
    Client,
}

/// Where a request's body comes from.
#[derive(Debug)]
struct Reading {
    /// What was read already, before the rest.
    ahead: VecDeque<Frame<Bytes>>,
    incoming: Incoming,
}

impl Reading {
    fn is_at_end(&self) -> bool {
        self.ahead.is_empty() && self.incoming.is_end_stream()
    }
}

/// A request's body, shared by its attempts.
#[derive(Debug)]
pub struct Source {
    reading: Mutex<Reading>,
    hint: SizeHint,
    limit: u64,
    begun: AtomicBool,
    too_large: AtomicBool,
    broken: AtomicBool,
    received: AtomicU64,
    /// How long its reader has waited for the client, in milliseconds, but for now.
    waited: AtomicU64,
    /// A moment of [`clock`]; zero: not yet.
    finished: AtomicU64,
    connection: Arc<Connection>,
    /// What was read, for who wants to send it elsewhere too.
    copy: Option<Mutex<Kept>>,
}

/// A copy of a body, up to a size.
#[derive(Debug)]
struct Kept {
    data: BytesMut,
    most: usize,
    is_too_large: bool,
}

impl Source {
    /// `ahead`: what was read of it already.
    pub fn new(incoming: Incoming, ahead: Option<Ahead>, limit: u64, connection: Arc<Connection>) -> Self {
        let (hint, ahead) = match ahead {
            Some(ahead) => (ahead.hint, ahead.frames),
            None => (incoming.size_hint(), VecDeque::new()),
        };
        let is_empty = ahead.is_empty() && incoming.is_end_stream();
        Self {
            hint,
            reading: Mutex::new(Reading { ahead, incoming }),
            limit,
            begun: AtomicBool::new(false),
            too_large: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            received: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            finished: AtomicU64::new(if is_empty { clock::exact_ms() } else { 0 }),
            connection,
            copy: None,
        }
    }

    /// Keeps a copy of what is read, unless it is more than `most` bytes.
    pub fn with_copy(mut self, most: usize) -> Self {
        self.copy = Some(Mutex::new(Kept { data: BytesMut::new(), most, is_too_large: false }));
        self
    }

    /// The copy, once all was read. `None`: there is none, or not of all.
    pub fn copied(&self) -> Option<Bytes> {
        let kept = self.copy.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        (self.finished().is_some() && !kept.is_too_large).then(|| Bytes::copy_from_slice(&kept.data))
    }

    /// Whether nothing of it was read, so that it can be sent again.
    pub fn is_whole(&self) -> bool {
        !self.begun.load(Relaxed)
    }

    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub fn trouble(&self) -> Option<Trouble> {
        if self.too_large.load(Relaxed) {
            Some(Trouble::TooLarge)
        } else if self.broken.load(Relaxed) {
            Some(Trouble::Client)
        } else {
            None
        }
    }

    /// For how long the client has kept its reader waiting.
    pub fn blocked_for(&self) -> std::time::Duration {
        self.connection.body_blocked_for()
    }

    /// Whether it has come more slowly than `rate` bytes per second of waiting for it, once that is more than `grace_ms`.
    pub fn drips(&self, rate: u64, grace_ms: u64) -> bool {
        let blocked = u64::try_from(self.blocked_for().as_millis()).unwrap_or(u64::MAX);
        let waited = self.waited.load(Relaxed).saturating_add(blocked);
        waited >= grace_ms && self.received().saturating_mul(1000) < waited.saturating_mul(rate)
    }

    /// Since when it has been read to its end, in milliseconds of [`clock`].
    pub fn finished(&self) -> Option<u64> {
        Some(self.finished.load(Relaxed)).filter(|moment| *moment != 0)
    }

    fn finish(&self) {
        self.finished.store(clock::exact_ms(), Relaxed);
    }
}

/// What an attempt sends.
#[derive(Debug, Clone)]
pub enum RequestBody {
    /// As it comes from the client.
    Client(Arc<Source>),
    /// All of it is here.
    Kept(Bytes),
}

impl RequestBody {
    pub fn new(source: &Arc<Source>) -> Self {
        Self::Client(Arc::clone(source))
    }

    pub fn kept(body: Bytes) -> Self {
        Self::Kept(body)
    }

    pub fn none() -> Self {
        Self::Kept(Bytes::new())
    }
}

impl Source {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.begun.store(true, Relaxed);
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = match reading.ahead.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None => match Pin::new(&mut reading.incoming).poll_frame(cx) {
                Poll::Pending => {
                    self.connection.body_blocked();
                    return Poll::Pending;
                }
                Poll::Ready(frame) => frame,
            },
        };
        let waited = self.connection.body_came();
        if waited > 0 {
            self.waited.fetch_add(waited, Relaxed);
        }
        Poll::Ready(match frame {
            None => {
                self.finish();
                None
            }
            Some(Err(error)) => {
                self.broken.store(true, Relaxed);
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.received.fetch_add(length, Relaxed) + length > self.limit {
                    self.too_large.store(true, Relaxed);
                    return Poll::Ready(Some(Err("the body is larger than its limit".into())));
                }
                if let (Some(copy), Some(data)) = (&self.copy, frame.data_ref()) {
                    copy.lock().unwrap_or_else(PoisonError::into_inner).add(data);
                }
                if reading.is_at_end() {
                    self.finish();
                }
                Some(Ok(frame))
            }
        })
    }
}

impl Kept {
    fn add(&mut self, data: &[u8]) {
        self.is_too_large |= self.data.len() + data.len() > self.most;
        if self.is_too_large {
            self.data = BytesMut::new();
        } else {
            self.data.extend_from_slice(data);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Client(source) => source.poll_frame(cx),
            Self::Kept(data) if data.is_empty() => Poll::Ready(None),
            Self::Kept(data) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(source) => source.reading.lock().unwrap_or_else(PoisonError::into_inner).is_at_end(),
            Self::Kept(data) => data.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(source) => source.hint,
            Self::Kept(data) => SizeHint::with_exact(data.len() as u64),
        }
    }
}

/// Where an answer comes from.
#[derive(Debug)]
enum From {
    /// An instance.
    Instance(Answer),
    /// The gateway itself.
    Own(axum::body::Body),
}

/// An answer's body.
#[derive(Debug)]
pub struct ResponseBody {
    from: From,
    /// `None`: the record is kept elsewhere.
    exchange: Option<Box<Exchange>>,
    /// An endless stream of events ends when the gateway drains.
    drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Kept while it is passed on.
    storing: Option<Box<Storing>>,
}

impl ResponseBody {
    pub fn instance(
        body: Answer,
        exchange: Box<Exchange>,
        drain: Option<WaitForCancellationFutureOwned>,
        storing: Option<Box<Storing>>,
    ) -> Self {
        Self::new(From::Instance(body), Some(exchange), drain, storing)
    }

    pub fn own(body: axum::body::Body, exchange: Box<Exchange>) -> Self {
        Self::new(From::Own(body), Some(exchange), None, None)
    }

    /// No body, and no record of its own.
    pub fn none() -> Self {
        Self::new(From::Own(axum::body::Body::empty()), None, None, None)
    }

    fn new(
        from: From,
        exchange: Option<Box<Exchange>>,
        drain: Option<WaitForCancellationFutureOwned>,
        storing: Option<Box<Storing>>,
    ) -> Self {
        let mut made = Self { from, exchange, drain: drain.map(Box::pin), storing };
        if made.is_end_stream() {
            made.complete();
        }
        made
    }

    fn complete(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.complete();
        }
        if let Some(storing) = self.storing.take() {
            storing.keep();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(drain) = &mut this.drain
            && drain.as_mut().poll(cx).is_ready()
        {
            this.storing = None;
            this.complete();
            return Poll::Ready(None);
        }
        let frame = match &mut this.from {
            From::Instance(body) => ready!(Pin::new(body).poll_frame(cx)),
            From::Own(body) => ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into)),
        };
        match &frame {
            None => this.complete(),
            Some(Ok(frame)) => {
                if let Some(exchange) = &mut this.exchange {
                    exchange.sent(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                if let Some(storing) = &mut this.storing {
                    // Trailers are not kept, so neither is what has some.
                    let fits = frame.data_ref().is_some_and(|data| storing.add(data));
                    if !fits {
                        this.storing = None;
                    }
                }
            }
            Some(Err(_)) => {
                this.storing = None;
                if let Some(exchange) = &mut this.exchange {
                    exchange.broke_off();
                }
            }
        }
        if this.is_end_stream() {
            this.complete();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Instance(body) => body.is_end_stream(),
            From::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Instance(body) => body.size_hint(),
            From::Own(body) => body.size_hint(),
        }
    }
}
