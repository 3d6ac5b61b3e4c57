//! One client's connection: what it is doing, so that its deadlines can be kept with one timer per connection instead of one
//! per request, and the reader that looks at what comes in. Accepting connections is `server`'s work.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderValue;
use kronos_common::identity::Claims;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    clock,
    config::Gateway,
    opening::{Opened, Place},
    sniff::{Sniffer, Verdict},
    transport::Transport,
};

/// Requests that a client gave up are counted for so long, in milliseconds.
const RESETS_SPAN: u64 = 10_000;

/// How long a connection may do what, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    pub first_byte: u64,
    pub header: u64,
    pub keep_alive: u64,
    pub body_idle: u64,
    /// Bytes of a body per second of waiting for them.
    pub body_rate: u64,
    pub write: u64,
    /// Requests that an HTTP/2 client may give up in ten seconds.
    pub resets: u32,
}

impl From<&Gateway> for Deadlines {
    fn from(config: &Gateway) -> Self {
        Self {
            first_byte: config.first_byte_timeout_ms,
            header: config.header_timeout_ms,
            keep_alive: config.keep_alive_timeout_ms,
            body_idle: config.body_idle_timeout_ms,
            body_rate: config.min_body_bytes_per_second,
            write: config.write_timeout_ms,
            resets: config.max_resets,
        }
    }
}

/// What becomes of a connection when its timer rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Ring again at this moment of [`clock`].
    At(u64),
    /// End it; the reason is a metric's label.
    Cut(&'static str),
}

/// The connections that are open, and how many may be.
#[derive(Debug, Clone)]
pub struct Seats {
    pub gauge: IntGauge,
    pub most: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Seat(IntGauge);

impl Seats {
    /// A seat, or none if all are taken.
    pub fn take(&self) -> Option<Seat> {
        self.gauge.inc();
        let seat = Seat(self.gauge.clone());
        let taken = usize::try_from(self.gauge.get()).unwrap_or(usize::MAX);
        (taken <= self.most).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Moments are those of [`clock`]; zero: not now.
#[derive(Debug)]
pub struct Connection {
    pub peer: IpAddr,
    /// The peer as it goes into `X-Forwarded-For`.
    pub peer_text: HeaderValue,
    pub is_http2: bool,
    pub is_tls: bool,
    /// Who showed a certificate of a known authority.
    pub certificate: Option<Arc<Claims>>,
    active: AtomicU32,
    /// Requests that the client gave up since `resets_since`.
    resets: AtomicU32,
    resets_since: AtomicU64,
    head_since: AtomicU64,
    idle_since: AtomicU64,
    read_at: AtomicU64,
    write_blocked_since: AtomicU64,
    body_blocked_since: AtomicU64,
    sniffer: Mutex<Sniffer>,
    _seat: Seat,
    _place: Option<Place>,
}

impl Connection {
    /// A connection that was opened, and its bytes.
    pub fn new(opened: Opened, seat: Seat) -> (Arc<Self>, Watched) {
        let Opened { transport, is_http2, peer, certificate, place } = opened;
        let now = clock::refresh();
        let connection = Arc::new(Self {
            _seat: seat,
            _place: place,
            is_tls: matches!(transport, Transport::Tls(_)),
            certificate,
            resets: AtomicU32::new(0),
            resets_since: AtomicU64::new(now),
            peer,
            peer_text: HeaderValue::try_from(peer.to_string()).expect("an address is visible ASCII"),
            is_http2,
            active: AtomicU32::new(0),
            head_since: AtomicU64::new(now),
            idle_since: AtomicU64::new(now),
            read_at: AtomicU64::new(now),
            write_blocked_since: AtomicU64::new(0),
            body_blocked_since: AtomicU64::new(0),
            sniffer: Mutex::default(),
        });
        let watched = Watched { transport, connection: Arc::clone(&connection) };
        (connection, watched)
    }

    /// Whether a request is under way.
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed) > 0
    }

    /// Whether the client gave up too many requests lately: each costs the gateway more than the client (CVE-2023-44487).
    pub fn resets_too_much(&self, deadlines: &Deadlines) -> bool {
        self.resets.load(Relaxed) > deadlines.resets
    }

    /// The client gave a request up.
    fn given_up(&self) {
        let now = clock::coarse_ms();
        if now.saturating_sub(self.resets_since.load(Relaxed)) > RESETS_SPAN {
            self.resets_since.store(now, Relaxed);
            self.resets.store(0, Relaxed);
        }
        self.resets.fetch_add(1, Relaxed);
    }

    /// A request's head is complete. The guard's end is the request's end.
    pub fn enter(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
        Active(Arc::clone(self))
    }

    /// What the raw head of the request that was just entered looked like; `None`: it was not seen whole.
    pub fn verdict(&self) -> Option<Verdict> {
        self.sniffer.lock().unwrap_or_else(PoisonError::into_inner).verdict()
    }

    /// The connection is a tunnel now.
    pub fn upgraded(&self) {
        self.sniffer.lock().unwrap_or_else(PoisonError::into_inner).stop();
    }

    /// The reader of a body waits for the client.
    pub fn body_blocked(&self) {
        if self.body_blocked_since.load(Relaxed) == 0 {
            // Perhaps on another thread than the connection's.
            self.body_blocked_since.store(clock::exact_ms(), Relaxed);
        }
    }

    /// It does not any more; comes back with how long it did, in milliseconds.
    pub fn body_came(&self) -> u64 {
        match self.body_blocked_since.load(Relaxed) {
            0 => 0,
            since => {
                self.body_blocked_since.store(0, Relaxed);
                clock::exact_ms().saturating_sub(since)
            }
        }
    }

    /// For how long the reader of a body has waited for the client.
    pub fn body_blocked_for(&self) -> Duration {
        match self.body_blocked_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(clock::exact_ms().saturating_sub(since)),
        }
    }

    /// Whether a deadline has passed, or when to look again.
    pub fn due(&self, deadlines: &Deadlines) -> Due {
        let now = clock::exact_ms();
        let mut next = deadlines.keep_alive;
        let mut overdue = |since: u64, limit: u64| {
            let passed = now.saturating_sub(since);
            if since != 0 && passed < limit {
                next = next.min(limit - passed);
            }
            since != 0 && passed >= limit
        };
        if overdue(self.write_blocked_since.load(Relaxed), deadlines.write) {
            return Due::Cut("write");
        }
        // Longer than the proxy's own patience, which ends in a 408.
        if overdue(self.body_blocked_since.load(Relaxed), deadlines.body_idle + deadlines.body_idle / 2) {
            return Due::Cut("body");
        }
        if self.active.load(Relaxed) == 0 {
            // HTTP/2 has frames that are no head.
            let head_since = if self.is_http2 { 0 } else { self.head_since.load(Relaxed) };
            if overdue(head_since, deadlines.header) {
                return Due::Cut("header");
            }
            let idle_since =
                self.idle_since.load(Relaxed).max(if self.is_http2 { self.read_at.load(Relaxed) } else { 0 });
            if head_since == 0 && overdue(idle_since, deadlines.keep_alive) {
                return Due::Cut("idle");
            }
        }
        // A deadline that begins meanwhile is noticed late by this much at most.
        let shortest = deadlines.header.min(deadlines.body_idle).min(deadlines.write).min(deadlines.keep_alive);
        Due::At(now + next.min(shortest / 2 + 1).max(5))
    }

    fn has_read(&self, bytes: &[u8]) {
        let now = clock::coarse_ms();
        self.read_at.store(now, Relaxed);
        if self.is_http2 {
            return;
        }
        if self.active.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(now, Relaxed);
        }
        self.sniffer.lock().unwrap_or_else(PoisonError::into_inner).feed(bytes);
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Active(Arc<Connection>);

impl Active {
    pub fn is_http2(&self) -> bool {
        self.0.is_http2
    }

    /// The client gave the request up.
    pub fn given_up(&self) {
        if self.0.is_http2 {
            self.0.given_up();
        }
    }

    /// The request's body was not read to its end: where the next head begins is for hyper alone to know.
    pub fn lost(&self) {
        if !self.0.is_http2 {
            self.0.upgraded();
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let connection = &self.0;
        if connection.active.fetch_sub(1, Relaxed) == 1 {
            connection.body_blocked_since.store(0, Relaxed);
            connection.idle_since.store(clock::coarse_ms(), Relaxed);
            if !connection.is_http2 {
                connection.sniffer.lock().unwrap_or_else(PoisonError::into_inner).resume();
            }
        }
    }
}

/// The socket, watched.
#[derive(Debug)]
pub struct Watched {
    transport: Transport,
    connection: Arc<Connection>,
}

impl Watched {
    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        let blocked = &self.connection.write_blocked_since;
        match (&written, blocked.load(Relaxed)) {
            (Poll::Pending, 0) => blocked.store(clock::coarse_ms(), Relaxed),
            (Poll::Ready(_), since) if since != 0 => blocked.store(0, Relaxed),
            _ => {}
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.transport).poll_read(cx, buf);
        if read.is_ready() && buf.filled().len() > before {
            self.connection.has_read(&buf.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
