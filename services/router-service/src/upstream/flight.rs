//! One request on its way to an instance: its bytes go out and the answer's head comes in, at the same time and in one task.
//! What is left of a request's body when the answer begins is sent by a task of its own.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Method};
use http_body::Body as _;
use tokio::{io::AsyncWrite, net::tcp::OwnedWriteHalf};
use tokio_util::io::poll_read_buf;

use super::{
    Failure,
    pool::Wire,
    wire::{self, Head},
};
use crate::body::RequestBody;

/// What a read makes room for.
const READ: usize = 4 * 1024;

/// What is still to be sent: bytes first, then the body.
#[derive(Debug)]
pub struct Upload {
    output: Vec<u8>,
    sent: usize,
    data: Bytes,
    body: Option<RequestBody>,
    trailers: Option<HeaderMap>,
    is_chunked: bool,
    began: bool,
    /// The body itself ended early: the client's doing.
    is_cut: bool,
}

impl Upload {
    fn new(output: Vec<u8>, body: Option<RequestBody>, is_chunked: bool) -> Self {
        Self { output, sent: 0, data: Bytes::new(), body, trailers: None, is_chunked, began: false, is_cut: false }
    }

    /// Sends until all is sent.
    fn poll<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut W) -> Poll<Result<(), Failure>> {
        loop {
            while self.sent < self.output.len() || !self.data.is_empty() {
                let head = &self.output[self.sent..];
                let stream = Pin::new(&mut *stream);
                let written = if self.data.is_empty() {
                    ready!(stream.poll_write(cx, head))
                } else if head.is_empty() {
                    ready!(stream.poll_write(cx, &self.data))
                } else {
                    ready!(stream.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(&self.data)]))
                };
                let count = match written {
                    Ok(0) => return Poll::Ready(Err(self.failure(io::ErrorKind::WriteZero.into()))),
                    Ok(count) => count,
                    Err(error) => return Poll::Ready(Err(self.failure(error))),
                };
                self.began = true;
                let of_head = count.min(head.len());
                self.sent += of_head;
                self.data.advance(count - of_head);
            }
            self.output.clear();
            self.sent = 0;
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                None => self.end(),
                Some(Ok(frame)) => match frame.into_data() {
                    // An empty chunk would be the end.
                    Ok(data) if data.is_empty() => {}
                    Ok(data) if self.is_chunked => {
                        self.output.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                        self.output.extend_from_slice(&data);
                        self.output.extend_from_slice(b"\r\n");
                    }
                    Ok(data) => self.data = data,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    self.is_cut = true;
                    return Poll::Ready(Err(Failure::Broken(anyhow::anyhow!(error))));
                }
            }
        }
    }

    fn end(&mut self) {
        self.body = None;
        if !self.is_chunked {
            return;
        }
        self.output.extend_from_slice(b"0\r\n");
        for (name, value) in self.trailers.iter().flatten() {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                self.output.extend_from_slice(part);
            }
        }
        self.output.extend_from_slice(b"\r\n");
    }

    fn failure(&self, error: io::Error) -> Failure {
        if self.began { Failure::Broken(error.into()) } else { Failure::NeverSent(error.into()) }
    }
}

/// A request under way on a connection.
#[derive(Debug)]
pub struct Flight {
    wire: Option<Wire>,
    method: Method,
    upload: Upload,
    /// All was sent, or no more can be.
    is_sent: bool,
    broken: Option<Failure>,
}

/// An answer's head, and what its body comes from.
#[derive(Debug)]
pub struct Landed {
    pub head: Head,
    pub wire: Wire,
    /// A part of the request that is not sent yet.
    pub rest: Option<Upload>,
    /// The request could not be sent to its end: the connection is of no more use after the answer.
    pub is_broken: bool,
}

impl Flight {
    /// The request's head is in the connection's output.
    pub fn new(mut wire: Wire, method: Method, body: Option<RequestBody>, is_chunked: bool) -> Self {
        let output = std::mem::take(&mut wire.output);
        let upload = Upload::new(output, body, is_chunked);
        Self { wire: Some(wire), method, upload, is_sent: false, broken: None }
    }

    /// Sends and waits for the answer's head.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Landed, Failure>> {
        let Some(wire) = &mut self.wire else { return Poll::Pending };
        if !self.is_sent {
            match self.upload.poll(cx, &mut wire.stream) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.is_sent = true,
                Poll::Ready(Err(failure)) if self.upload.is_cut => return Poll::Ready(Err(failure)),
                // The instance may have said why before it stopped reading.
                Poll::Ready(Err(failure)) => {
                    self.broken = Some(failure);
                    self.is_sent = true;
                }
            }
        }
        loop {
            if !wire.input.is_empty() {
                match wire::head(&mut wire.input, &self.method) {
                    Ok(Some(head)) => break Poll::Ready(Ok(self.land(head))),
                    Ok(None) => {}
                    Err(wire::Malformed(why)) => break Poll::Ready(Err(Failure::Broken(anyhow::anyhow!(why)))),
                }
            }
            wire.input.reserve(READ);
            let error = match ready!(poll_read_buf(Pin::new(&mut wire.stream), cx, &mut wire.input)) {
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Ok(_) => continue,
                Err(error) => error,
            };
            break Poll::Ready(Err(self.broken.take().unwrap_or_else(|| self.upload.failure(error))));
        }
    }

    fn land(&mut self, head: Head) -> Landed {
        let mut wire = self.wire.take().expect("a flight lands once");
        let mut upload = std::mem::replace(&mut self.upload, Upload::new(Vec::new(), None, false));
        let rest = if self.is_sent {
            upload.output.clear();
            wire.output = upload.output;
            None
        } else {
            Some(upload)
        };
        Landed { head, wire, rest, is_broken: self.broken.is_some() }
    }
}

/// Sends the rest of a request's body while the answer is read; gives the connection's half back when all is sent.
pub async fn finish(mut upload: Upload, mut half: OwnedWriteHalf) -> Option<OwnedWriteHalf> {
    let sent = std::future::poll_fn(|cx| upload.poll(cx, &mut half)).await;
    sent.is_ok().then_some(half)
}
