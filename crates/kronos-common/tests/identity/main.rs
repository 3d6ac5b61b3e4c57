//! Identity over real HTTP: the key set, the extractors, the client between services. No store is needed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod client;
mod extractors;
mod key_set;
mod vectors;

use std::net::SocketAddr;

/// Serves a router on a free port until the test's runtime ends.
async fn serve(router: axum::Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}
