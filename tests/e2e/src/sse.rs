//! Server-sent events, read one by one.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, stream::BoxStream};
use serde_json::Value;

use crate::api::Api;

/// One event with JSON data.
#[derive(Debug, Clone)]
pub struct Event {
    /// `event:`, or `message`.
    pub name: String,
    /// `data:`.
    pub data: Value,
}

/// An open stream of events.
pub struct Events {
    bytes: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    buffer: Vec<u8>,
}

impl Events {
    /// Opens a stream.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn open(api: &Api, path: &str) -> anyhow::Result<Self> {
        let request = api.request(reqwest::Method::GET, path).header("accept", "text/event-stream");
        let response = request.send().await.with_context(|| format!("GET {path}"))?;
        if response.status() != 200 {
            bail!("GET {path}: expected 200, got {}: {}", response.status(), response.text().await.unwrap_or_default());
        }
        let bytes = response.bytes_stream().map(|chunk| chunk.map(Vec::from)).boxed();
        Ok(Self { bytes, buffer: Vec::new() })
    }

    /// The next event, within `patience`.
    ///
    /// # Errors
    /// None came in time, or the stream ended.
    pub async fn next(&mut self, patience: Duration) -> anyhow::Result<Event> {
        let event = tokio::time::timeout(patience, self.read());
        event.await.with_context(|| format!("no event within {patience:?}"))?
    }

    async fn read(&mut self) -> anyhow::Result<Event> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(&String::from_utf8_lossy(&block)) {
                    return Ok(event);
                }
            }
            let chunk = self.bytes.next().await.context("the stream of events ended")?;
            self.buffer.extend(chunk.context("read events")?);
        }
    }
}

/// An event with data; comments (keep-alives) and events without data are none.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let lines = block.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(':'));
        lines.map(str::trim).collect::<Vec<_>>().join("\n")
    };
    let (name, data) = (field("event"), field("data"));
    let name = if name.is_empty() { "message".to_owned() } else { name };
    serde_json::from_str(&data).ok().map(|data| Event { name, data })
}
