//! The half that speaks to instances: HTTP/1.1 by hand, one pool of connections per core, no task and no channel between a
//! request and its connection; HTTP/2 and TLS through hyper's client. Nothing else knows how instances are spoken to, so that
//! it can be replaced.

pub mod answer;
pub mod client;
pub mod flight;
pub mod pool;
pub mod wire;

use std::{fmt, future::poll_fn, rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::answer::Answer;
use self::{
    answer::{Home, Stream},
    client::Clients,
    flight::{Flight, Landed},
    pool::{Pool, Wire},
    wire::Framing,
};
use crate::{body::RequestBody, config::Balance, headers::Outgoing, instance::Instance, upstream_spec::Protocol};

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The request was certainly not carried out: no connection, or it was closed before a byte was sent.
    NeverSent(anyhow::Error),
    /// It may have been carried out.
    Broken(anyhow::Error),
}

/// What an instance said.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub content: Content,
}

/// What follows the head.
#[derive(Debug)]
pub enum Content {
    Body(Answer),
    /// Another protocol; its first bytes may have come with the head.
    Tunnel {
        protocol: Option<HeaderValue>,
        stream: Box<dyn Duplex>,
        first: BytesMut,
    },
}

/// A connection that changed its protocol: bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Duplex for T {}

/// One core's connections to all instances.
#[derive(Debug, Clone)]
pub struct Forwarder {
    pool: Rc<Pool>,
    /// For what is not plain HTTP/1.1.
    clients: Rc<Clients>,
}

impl Forwarder {
    pub fn new(config: &Balance, tls: Arc<rustls::ClientConfig>) -> Self {
        let keep = Duration::from_millis(config.pool_idle_timeout_ms);
        let connect = Duration::from_millis(config.connect_timeout_ms);
        Self { pool: Pool::new(keep, connect), clients: Rc::new(Clients::new(tls, keep, connect)) }
    }

    /// Closes connections that were idle for too long. To be called about once a second.
    pub fn sweep(&self) {
        self.pool.sweep();
    }

    /// Sends a request to an instance and comes back with the answer's head.
    ///
    /// # Errors
    /// No answer.
    pub async fn send(
        &self,
        protocol: Protocol,
        instance: &Arc<Instance>,
        outgoing: &Outgoing<'_>,
        body: Option<RequestBody>,
    ) -> Result<Reply, Failure> {
        if protocol != Protocol::Http1 || instance.is_tls {
            return Box::pin(self.clients.send(protocol, instance, outgoing, body)).await;
        }
        // Of a connection that was closed just now nothing was read: a new one makes up for it.
        if let Some(wire) = self.pool.take(instance) {
            match fly(wire, instance, outgoing, body.clone()).await {
                Ok(landed) => return Ok(self.reply(instance, landed)),
                Err(Failure::NeverSent(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        let wire = self.pool.connect(instance).await.map_err(Failure::NeverSent)?;
        let landed = fly(wire, instance, outgoing, body).await?;
        Ok(self.reply(instance, landed))
    }

    fn reply(&self, instance: &Instance, landed: Landed) -> Reply {
        let Landed { head, wire, rest, is_broken } = landed;
        let Wire { stream, input, output } = wire;
        let content = if head.framing == Framing::Upgraded {
            Content::Tunnel { protocol: head.upgrade, stream: Box::new(stream), first: input }
        } else {
            let stream = match rest {
                None => Stream::Whole(stream),
                Some(rest) => {
                    let (read, write) = stream.into_split();
                    Stream::Half(read, tokio::task::spawn_local(flight::finish(rest, write)))
                }
            };
            let home = Home { pool: Rc::clone(&self.pool), instance: instance.id, keep: head.keep && !is_broken };
            Content::Body(Answer::new(stream, input, output, head.framing, home))
        };
        Reply { status: head.status, headers: head.headers, content }
    }
}

/// Sends a request on one connection.
async fn fly(
    mut wire: Wire,
    instance: &Instance,
    outgoing: &Outgoing<'_>,
    body: Option<RequestBody>,
) -> Result<Landed, Failure> {
    let method = outgoing.method;
    wire.output.clear();
    outgoing.write(&mut wire.output, instance.authority.as_str());
    let length = body.as_ref().map(|body| body.size_hint().exact());
    match length {
        Some(Some(length)) => {
            wire.output.extend_from_slice(b"content-length: ");
            wire.output.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            wire.output.extend_from_slice(b"\r\n\r\n");
        }
        Some(None) => wire.output.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        // Methods that are expected to have a body say that there is none (RFC 9110 section 8.6).
        None if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {
            wire.output.extend_from_slice(b"content-length: 0\r\n\r\n");
        }
        None => wire.output.extend_from_slice(b"\r\n"),
    }
    let mut flight = Flight::new(wire, method.clone(), body, length == Some(None));
    poll_fn(|cx| flight.poll(cx)).await
}
