//! One core's idle connections to instances: the one used last is taken first. A connection that its instance has closed is
//! noticed without asking the kernel, for the runtime already knows that there is something to read.

use std::{cell::RefCell, io, rc::Rc, sync::Arc, task, time::Duration};

use anyhow::Context as _;
use bytes::BytesMut;
use foldhash::HashMap;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::{clock, instance::Instance};

/// Idle connections that are kept to one instance.
const MOST_IDLE: usize = 256;
/// Heads and small bodies fit; a larger buffer is not kept.
const INPUT: usize = 8 * 1024;
const LARGEST_KEPT: usize = 64 * 1024;

/// A connection to an instance, and the buffers that go with it.
#[derive(Debug)]
pub struct Wire {
    pub stream: TcpStream,
    pub input: BytesMut,
    pub output: Vec<u8>,
}

#[derive(Debug)]
struct Idle {
    wire: Wire,
    since_ms: u64,
}

/// The idle connections, by instance.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>>>,
    keep_ms: u64,
    connect: Duration,
}

impl Pool {
    pub fn new(keep: Duration, connect: Duration) -> Rc<Self> {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        Rc::new(Self { idle: RefCell::default(), keep_ms, connect })
    }

    /// A connection that was used before and is still good.
    pub fn take(&self, instance: &Instance) -> Option<Wire> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&instance.id)?;
        while let Some(Idle { wire, .. }) = list.pop() {
            if wire.is_silent() {
                return Some(wire);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn put(&self, instance: u64, wire: Wire) {
        if !wire.input.is_empty() || wire.output.capacity() > LARGEST_KEPT {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(instance).or_default();
        if list.len() < MOST_IDLE {
            list.push(Idle { wire, since_ms: clock::coarse_ms() });
        }
    }

    /// Closes what was idle for too long, and forgets instances without connections. To be called about once a second.
    pub fn sweep(&self) {
        let oldest = clock::coarse_ms().saturating_sub(self.keep_ms);
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|idle| idle.since_ms >= oldest && idle.wire.is_silent());
            !list.is_empty()
        });
    }

    /// A new connection.
    ///
    /// # Errors
    /// The instance can't be reached in time.
    pub async fn connect(&self, instance: &Arc<Instance>) -> anyhow::Result<Wire> {
        let host = instance.authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = instance.authority.port_u16().unwrap_or(80);
        let stream = tokio::time::timeout(self.connect, TcpStream::connect((host, port))).await;
        let stream = stream.context("connecting took too long")?.context("connect")?;
        stream.set_nodelay(true)?;
        // A peer that vanished without a word is noticed in about a minute, also on a silent stream.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10))
            .with_retries(3);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Wire { stream, input: BytesMut::with_capacity(INPUT), output: Vec::with_capacity(1024) })
    }
}

impl Wire {
    /// Whether nothing came since the last answer; an end, or bytes that nobody asked for, make it useless.
    fn is_silent(&self) -> bool {
        let mut cx = task::Context::from_waker(task::Waker::noop());
        match self.stream.poll_read_ready(&mut cx) {
            task::Poll::Pending => true,
            // What filled a buffer to its end left the question open.
            task::Poll::Ready(_) => {
                matches!(self.stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }
}
