//! What a handler left unread of a request's body. A server that answers early and closes resets the connection, and the
//! caller, still sending, never sees why it was refused; so the rest is read first and thrown away, within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;

/// More than this is not read: the gateway sends no larger body.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Who sends more slowly is cut.
const PATIENCE: Duration = Duration::from_secs(2);

/// The receiving end: the body comes back when its reader lets go of it.
pub(crate) struct Leftover(oneshot::Receiver<Body>);

/// Wraps a body so that what is left of it comes back.
pub(crate) fn track(body: Body) -> (Body, Leftover) {
    let (sender, receiver) = oneshot::channel();
    (Body::new(Tracked { body: Some(body), back: Some(sender) }), Leftover(receiver))
}

impl Leftover {
    /// Reads what was left, within bounds. Returns at once if somebody still holds the body.
    pub(crate) async fn discard(mut self) {
        if let Ok(body) = self.0.try_recv() {
            discard(body).await;
        }
    }
}

/// Reads a body and throws it away: at most 32 MiB of it, for at most 2 s.
pub async fn discard<B>(mut body: B)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let all = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > MAX_BYTES {
                break;
            }
        }
    };
    // Whether it was all or too much: the answer goes out now.
    let _ = tokio::time::timeout(PATIENCE, all).await;
}

struct Tracked {
    body: Option<Body>,
    back: Option<oneshot::Sender<Body>>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Nobody waits for it once the answer is out.
            let _ = back.send(body);
        }
    }
}
