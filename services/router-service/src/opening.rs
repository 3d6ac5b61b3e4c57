//! The beginning of a client's connection, before any request: who it is from, whether it speaks TLS, which HTTP it speaks, and
//! how many there are from the same address. All of it against deadlines.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kronos_common::identity::Claims;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{limit::counted, proxy::Core, proxy_protocol, tls, transport::Transport};

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of every TLS handshake (RFC 8446 section 5.1); no HTTP method begins with it.
const HANDSHAKE: u8 = 0x16;

/// What a connection gets that is one too many.
pub const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";

/// A connection that may ask now.
pub struct Opened {
    pub transport: Transport,
    pub is_http2: bool,
    pub peer: IpAddr,
    /// Who showed a certificate of a known authority.
    pub certificate: Option<Arc<Claims>>,
    /// Its place among those of its address.
    pub place: Option<Place>,
}

/// Connections by address, IPv6 by /64; shared by all cores.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    /// A place, or none if the address has `most` already.
    pub fn take(&self, address: IpAddr, most: usize) -> Option<Place> {
        let address = counted(address);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = known.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut known = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                known.remove(&self.address);
            }
        }
    }
}

/// Opens a connection.
///
/// # Errors
/// Why it is cut, as a metric's label; `None`: it ended by itself.
pub async fn open(core: &Core, mut stream: TcpStream, peer: IpAddr) -> Result<Opened, Option<&'static str>> {
    let config = &core.gateway.config.gateway;
    let mut peer = peer.to_canonical();
    if config.proxy_protocol_from.iter().any(|network| network.contains(&peer)) {
        let read = timeout(Duration::from_millis(core.deadlines.first_byte), proxy_protocol::read(&mut stream)).await;
        match read {
            Err(_) => return Err(Some("silent")),
            Ok(Err(_)) => return Err(Some("proxy-protocol")),
            Ok(Ok(client)) => peer = client.unwrap_or(peer),
        }
    }
    let begin = match begin(core, &stream).await {
        Ok(Some(begin)) => begin,
        Ok(None) => return Err(Some("silent")),
        Err(_) => return Err(None),
    };
    let most = config.max_connections_per_address;
    // Whoever passes others' requests on is many.
    let is_counted = most > 0 && !config.trusted_proxies.iter().any(|network| network.contains(&peer));
    let place = if is_counted { core.gateway.places.take(peer, most) } else { None };
    if is_counted && place.is_none() {
        if begin != Begin::Tls {
            // Best effort: the socket is empty, so it fits.
            let _ = stream.try_write(FULL);
        }
        return Err(Some("address"));
    }
    if begin == Begin::Tls {
        return Box::pin(handshake(core, stream, peer, place)).await;
    }
    let is_http2 = begin == Begin::Http2;
    Ok(Opened { transport: Transport::Plain(stream), is_http2, peer, certificate: None, place })
}

async fn handshake(
    core: &Core,
    stream: TcpStream,
    peer: IpAddr,
    place: Option<Place>,
) -> Result<Opened, Option<&'static str>> {
    let Some(tls) = &core.gateway.tls else { return Err(Some("tls")) };
    let limit = Duration::from_millis(core.gateway.config.tls.handshake_timeout_ms);
    let stream = match timeout(limit, tls.acceptor().accept(stream)).await {
        Err(_) => return Err(Some("handshake")),
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            return Err(Some("tls"));
        }
        Ok(Ok(stream)) => stream,
    };
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.and_then(tls::subject).map(Arc::new);
    Ok(Opened { transport: Transport::Tls(Box::new(stream)), is_http2, peer, certificate, place })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    Tls,
    Http1,
    Http2,
}

/// Looks at the first bytes without taking them. `None`: they did not come in time.
async fn begin(core: &Core, stream: &TcpStream) -> io::Result<Option<Begin>> {
    let mut start = [0; HTTP2_PREFACE.len()];
    let first = timeout(Duration::from_millis(core.deadlines.first_byte), stream.peek(&mut start));
    let Ok(seen) = first.await else { return Ok(None) };
    let mut seen = seen?;
    if seen == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if start[0] == HANDSHAKE {
        return Ok(Some(Begin::Tls));
    }
    let end = Instant::now() + Duration::from_millis(core.deadlines.header);
    // A beginning of the preface decides nothing yet; it is three bytes at least, so this is rare.
    while HTTP2_PREFACE.starts_with(&start[..seen]) && seen < HTTP2_PREFACE.len() {
        if Instant::now() >= end {
            return Ok(None);
        }
        sleep(Duration::from_millis(2)).await;
        let Ok(peeked) = timeout_at(end, stream.peek(&mut start)).await else { return Ok(None) };
        seen = peeked?;
    }
    Ok(Some(if &start[..seen] == HTTP2_PREFACE { Begin::Http2 } else { Begin::Http1 }))
}
