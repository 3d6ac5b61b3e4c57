//! Which network a request comes from: behind trusted proxies, what they say. Addresses are counted, never logged.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::Deserialize;

/// The part of an address that one customer of a provider has: IPv4 /24, IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    /// The network of an address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & (!0 << 8))),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (!0 << 64))),
        })
    }

    /// What a provider gives one customer at most: of IPv6 a /56, which is 256 networks; of IPv4 the network itself.
    #[must_use]
    pub fn site(self) -> Self {
        Self(match self.0 {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (!0 << 72))),
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The address from which a request comes: the peer's, or, while that is a trusted proxy, the one before it in
/// `X-Forwarded-For`. Whatever stands left of the first untrusted address is hearsay and is not read.
pub fn client_address(peer: IpAddr, forwarded_for: &[&str], trusted: &Networks) -> IpAddr {
    let mut address = peer;
    let mut hops = forwarded_for.iter().rev().flat_map(|line| line.rsplit(','));
    while trusted.contains(address) {
        match hops.next().and_then(|hop| parse_hop(hop.trim())) {
            Some(before) => address = before,
            None => break,
        }
    }
    address
}

/// `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]`, `[::1]:80`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(hop, |(address, _)| address);
    bare.parse().ok().or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

/// A list of networks in CIDR form, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Networks(Vec<(IpAddr, u8)>);

impl Networks {
    /// Whether `address` is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|(network, length)| match (network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                u32::from(*length) == 0 || (network.to_bits() ^ address.to_bits()) >> (32 - u32::from(*length)) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                u32::from(*length) == 0 || (network.to_bits() ^ address.to_bits()) >> (128 - u32::from(*length)) == 0
            }
            _ => false,
        })
    }
}

impl TryFrom<String> for Networks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| {
                let (address, length) = item.split_once('/').ok_or_else(|| format!("{item} has no /length"))?;
                let address: IpAddr = address.parse().map_err(|_| format!("{item} is not a network"))?;
                let longest = if address.is_ipv4() { 32 } else { 128 };
                let length = length.parse().ok().filter(|length| *length <= longest);
                length.map(|length| (address, length)).ok_or_else(|| format!("{item} has no length up to {longest}"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}
