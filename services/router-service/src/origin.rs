//! Who the client is: the peer, or what a trusted proxy says of it, in `X-Forwarded-For` and `X-Forwarded-Proto` or in `Forwarded`
//! (RFC 7239), as the configuration says. Only one of them is read: a proxy passes on unchecked what it does not write itself.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;
use serde::Deserialize;

use crate::{
    connection::Connection,
    headers::{X_FORWARDED_FOR, X_FORWARDED_PROTO},
};

/// What trusted proxies write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustedHeader {
    XForwardedFor,
    Forwarded,
}

/// Who the client is.
#[derive(Debug, Clone)]
pub struct Origin {
    pub address: IpAddr,
    /// What goes into `X-Forwarded-For`.
    pub chain: HeaderValue,
    pub is_https: bool,
}

/// Believes trusted networks only, and reads what they say from the right.
pub fn origin(connection: &Connection, headers: &HeaderMap, trusted: &[IpNet], header: TrustedHeader) -> Origin {
    origin_of(connection.peer, &connection.peer_text, connection.is_tls, headers, trusted, header)
}

/// As [`origin`], for a peer with this address, which is written so.
pub fn origin_of(
    peer: IpAddr,
    text: &HeaderValue,
    is_tls: bool,
    headers: &HeaderMap,
    trusted: &[IpNet],
    header: TrustedHeader,
) -> Origin {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if trusted.is_empty() || !is_trusted(&peer) {
        return Origin { address: peer, chain: text.clone(), is_https: is_tls };
    }
    let (before, is_https) = match header {
        TrustedHeader::XForwardedFor => x_forwarded(headers),
        TrustedHeader::Forwarded => forwarded(headers),
    };
    let mut address = peer;
    let mut chain = Vec::new();
    for hop in before.into_iter().rev() {
        // What is left of something unreadable was not written by a trusted proxy.
        let Some(hop) = hop else { break };
        address = hop.to_canonical();
        chain.push(address.to_string());
        if !is_trusted(&address) {
            break;
        }
    }
    chain.reverse();
    chain.push(peer.to_string());
    Origin {
        address,
        chain: HeaderValue::try_from(chain.join(", ")).unwrap_or_else(|_| text.clone()),
        is_https: is_https.unwrap_or(is_tls),
    }
}

/// Addresses before the peer, and whether the client came by TLS, as far as that is said.
type Said = (Vec<Option<IpAddr>>, Option<bool>);

fn x_forwarded(headers: &HeaderMap) -> Said {
    let values = headers.get_all(X_FORWARDED_FOR).iter();
    let parts = values.flat_map(|value| value.to_str().unwrap_or_default().split(','));
    let proto = headers.get_all(X_FORWARDED_PROTO).iter().next_back();
    (
        parts.map(|part| part.trim().parse().ok()).collect(),
        proto.map(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https")),
    )
}

fn forwarded(headers: &HeaderMap) -> Said {
    let (mut hops, mut is_https) = (Vec::new(), None);
    for value in headers.get_all(header::FORWARDED) {
        // An escape within quotes is legal, and nobody needs one: not worth a way around the checks.
        let Some(text) = value.to_str().ok().filter(|text| !text.contains('\\')) else {
            hops.push(None);
            continue;
        };
        for element in split(text, ',') {
            let pairs = split(element, ';').into_iter().filter_map(|pair| pair.split_once('='));
            let pairs: Vec<_> = pairs.map(|(name, value)| (name.trim(), value.trim().trim_matches('"'))).collect();
            let said = |wanted: &str| {
                let found = pairs.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map(|(_, value)| *value)
            };
            hops.push(said("for").and_then(node));
            is_https = said("proto").map(|proto| proto.eq_ignore_ascii_case("https"));
        }
    }
    (hops, is_https)
}

/// Splits, but not within quotes.
fn split(text: &str, at: char) -> Vec<&str> {
    let mut is_quoted = false;
    let is_end = |found: char| {
        is_quoted ^= found == '"';
        found == at && !is_quoted
    };
    text.split(is_end).collect()
}

/// An address with or without a port (RFC 7239 section 6); names that hide one are none.
fn node(text: &str) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return (port.is_empty() || port.starts_with(':')).then(|| address.parse().ok()).flatten();
    }
    text.split_once(':').map_or(text, |(address, _)| address).parse().ok()
}
