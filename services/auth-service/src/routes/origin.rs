//! Where a request comes from, for the throttle and the list of sessions.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{header, request::Parts},
};

use crate::{
    App,
    network::{Network, client_address},
};

const LONGEST_DEVICE: usize = 120;

/// Network and device of a caller.
pub(super) struct Origin {
    pub(super) network: Network,
    pub(super) device: Option<String>,
}

impl FromRequestParts<App> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip());
        let forwarded: Vec<&str> =
            parts.headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
        let address = client_address(peer, &forwarded, &app.trusted_proxies);
        let device = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let device = device.map(|agent| agent.chars().take(LONGEST_DEVICE).collect());
        Ok(Self { network: Network::of(address), device })
    }
}
