//! Gaia as the demo plays it: a real HTTP server that holds logs of its own and counts its callers.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// A running Gaia; it ends when this is dropped.
#[derive(Debug)]
pub struct Gaia {
    /// Where it listens.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Deserialize)]
struct Filter {
    service: Option<String>,
}

impl Gaia {
    /// Starts it with the lines that it holds, on a free port of the loopback interface.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(lines: Vec<Value>) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("start Gaia")?;
        let address = listener.local_addr().context("read Gaia's address")?;
        let router = Router::new()
            .route("/logs", get(list_logs))
            .fallback(async || Json(json!({ "service": "gaia" })))
            .with_state(Arc::new(lines));
        let task = tokio::spawn(async move {
            // Ends with the demo; what it could say then nobody hears.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, task })
    }
}

impl Drop for Gaia {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn list_logs(State(lines): State<Arc<Vec<Value>>>, Query(filter): Query<Filter>) -> Json<Value> {
    let wanted = |line: &&Value| filter.service.as_deref().is_none_or(|service| line["service"] == service);
    Json(json!({ "items": lines.iter().filter(wanted).collect::<Vec<_>>() }))
}
