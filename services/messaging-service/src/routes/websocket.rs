//! A subscription over a WebSocket (RFC 6455): messages out; acknowledgements, retries, extensions and credit in, on the same
//! socket. Every frame is one JSON document. Answers name what they answer by its `id`.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::ws::{CloseFrame, Message as Frame, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code},
    response::Response,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kronos_common::problem::Problem;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    deliveries::{self, Extension, Retry, Which},
    subscribe::{Seat, Source, TOKEN_LOOK},
};
use crate::listener::Tailed;

/// Largest frame of a subscriber's, in bytes.
const LARGEST_FRAME: usize = 64 * 1024;
/// What a subscriber asked for and was not answered yet; then no more is read.
const MOST_UNDER_WAY: usize = 256;
/// How long a subscriber may take none of what is sent.
const STALLED: Duration = Duration::from_secs(60);

/// What a subscriber says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Said {
    Ack { id: String, group: Option<String>, attempt: Option<i32> },
    Retry { id: String, group: Option<String>, attempt: Option<i32>, delay_ms: Option<i64>, reason: Option<String> },
    Extend { id: String, group: Option<String>, attempt: Option<i32>, lease_ms: Option<i64> },
    Credit { messages: u64 },
}

/// Takes the upgrade. `credit`: messages that may be sent until the subscriber gives more; without, only its window counts.
pub(super) fn respond(upgrade: WebSocketUpgrade, seat: Seat, source: Source, credit: Option<u64>) -> Response {
    let upgrade = upgrade.max_message_size(LARGEST_FRAME).max_frame_size(LARGEST_FRAME);
    upgrade.on_upgrade(move |socket| async move {
        let mut conversation = Conversation { socket, seat: Arc::new(seat), source, credit };
        let code = conversation.run().await;
        if let Some((code, reason)) = code {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            let _ =
                tokio::time::timeout(Duration::from_secs(1), conversation.socket.send(Frame::Close(Some(frame)))).await;
        }
    })
}

struct Conversation {
    socket: WebSocket,
    seat: Arc<Seat>,
    source: Source,
    credit: Option<u64>,
}

impl Conversation {
    /// Until either side ends; gives why, if it is this one.
    async fn run(&mut self) -> Option<(u16, &'static str)> {
        let begins = self.source.begins().map(str::to_owned);
        let mut hello = json!({ "type": "subscribed" });
        if let Some(token) = begins {
            hello["resume"] = token.into();
        }
        self.send(hello.to_string()).await?;
        let mut under_way: FuturesUnordered<BoxFuture<'static, String>> = FuturesUnordered::new();
        let mut look = tokio::time::interval(TOKEN_LOOK);
        let shutdown = self.seat.app.context.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Some((close_code::AWAY, "subscribe again")),
                _ = look.tick() => if !self.seat.may_stay() {
                    return Some((close_code::POLICY, "the token has ended"));
                },
                Some(answer) = under_way.next() => self.send(answer).await?,
                frame = self.socket.recv(), if under_way.len() < MOST_UNDER_WAY => match frame {
                    Some(Ok(Frame::Text(text))) => {
                        if let Some(work) = self.hear(&text) {
                            under_way.push(work);
                        }
                    }
                    Some(Ok(Frame::Binary(_))) => return Some((close_code::UNSUPPORTED, "send text frames")),
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => return None,
                },
                next = self.source.next(), if self.credit != Some(0) => match next {
                    Some(Tailed::Message { json, token }) => {
                        self.credit = self.credit.map(|credit| credit - 1);
                        let resume = token.map(|token| format!("\"resume\":\"{token}\",")).unwrap_or_default();
                        let fields = json.strip_prefix('{').unwrap_or_default();
                        self.send(format!("{{\"type\":\"message\",{resume}{fields}")).await?;
                    }
                    Some(Tailed::Gap) => self.send(json!({ "type": "gap" }).to_string()).await?,
                    None => return Some((close_code::AWAY, "subscribe again")),
                },
            }
        }
    }

    /// `None`: the subscriber is gone, or reads nothing.
    async fn send(&mut self, text: String) -> Option<()> {
        let sent = tokio::time::timeout(STALLED, self.socket.send(Frame::Text(text.into()))).await;
        matches!(sent, Ok(Ok(()))).then_some(())
    }

    /// What is to be done about a frame; it ends with the answer.
    fn hear(&mut self, text: &str) -> Option<BoxFuture<'static, String>> {
        let said = match serde_json::from_str::<Said>(text) {
            Ok(said) => said,
            Err(error) => {
                let problem = Problem::bad_request("malformed_frame", format!("the frame is not understood: {error}"));
                let answer = refused(None, &problem);
                return Some(async move { answer }.boxed());
            }
        };
        let seat = self.seat.clone();
        Some(match said {
            Said::Credit { messages } => {
                self.credit = Some(self.credit.unwrap_or(0).saturating_add(messages));
                return None;
            }
            Said::Ack { id, group, attempt } => async move {
                let which = Which { group, attempt };
                let acked = deliveries::acknowledge(&seat.app, &seat.caller, &id, &which).await;
                answered("acked", &id, acked.map(|()| json!({})))
            }
            .boxed(),
            Said::Retry { id, group, attempt, delay_ms, reason } => async move {
                let which = Which { group, attempt };
                let retried = match Retry::new(delay_ms, reason) {
                    Ok(retry) => deliveries::retry(&seat.app, &seat.caller, &id, &which, &retry).await,
                    Err(problem) => Err(problem),
                };
                answered("retried", &id, retried)
            }
            .boxed(),
            Said::Extend { id, group, attempt, lease_ms } => async move {
                let which = Which { group, attempt };
                let extended = match Extension::new(lease_ms) {
                    Ok(extension) => deliveries::extend(&seat.app, &seat.caller, &id, &which, &extension).await,
                    Err(problem) => Err(problem),
                };
                answered("extended", &id, extended)
            }
            .boxed(),
        })
    }
}

fn answered(kind: &str, id: &str, result: kronos_common::problem::Result<impl Serialize>) -> String {
    match result {
        Ok(body) => {
            let mut answer = serde_json::to_value(body).unwrap_or_default();
            answer["type"] = kind.into();
            answer["id"] = id.into();
            answer.to_string()
        }
        Err(problem) => refused(Some(id), &problem),
    }
}

fn refused(id: Option<&str>, problem: &Problem) -> String {
    json!({ "type": "error", "id": id, "problem": problem.body() }).to_string()
}
