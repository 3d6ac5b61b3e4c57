//! The body of an instance's answer, as it comes. Where it ends, the connection goes back to the pool.

use std::{
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    net::{TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinHandle,
};
use tokio_util::io::poll_read_buf;

use super::{
    pool::{Pool, Wire},
    wire::{Chunks, Framing, Malformed, Piece},
};

/// What a read makes room for.
const READ: usize = 16 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where a body's bytes come from.
#[derive(Debug)]
pub enum Stream {
    Whole(TcpStream),
    /// The other half still sends the request's body.
    Half(OwnedReadHalf, JoinHandle<Option<OwnedWriteHalf>>),
}

/// Where a connection goes after its answer.
pub struct Home {
    pub pool: Rc<Pool>,
    pub instance: u64,
    pub keep: bool,
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("instance", &self.instance).field("keep", &self.keep).finish_non_exhaustive()
    }
}

/// A body.
#[derive(Debug)]
pub enum Answer {
    /// All of it is here; nothing more is expected of the connection.
    Here(Bytes),
    Coming(Box<Coming>),
    /// From hyper's client.
    Hyper(Box<Incoming>),
}

/// A body whose end has not come.
#[derive(Debug)]
pub struct Coming {
    stream: Option<Stream>,
    input: BytesMut,
    output: Vec<u8>,
    framing: Framing,
    chunks: Chunks,
    home: Home,
}

impl Answer {
    pub fn new(stream: Stream, mut input: BytesMut, output: Vec<u8>, framing: Framing, home: Home) -> Self {
        if let Framing::Length(length) = framing
            && let Ok(length) = usize::try_from(length)
            && length <= input.len()
        {
            let data = if length == 0 { Bytes::new() } else { input.split_to(length).freeze() };
            give_back(stream, input, output, &home);
            return Self::Here(data);
        }
        let coming = Coming { stream: Some(stream), input, output, framing, chunks: Chunks::default(), home };
        Self::Coming(Box::new(coming))
    }

    /// How it ends, as far as that is known.
    fn left(&self) -> Option<u64> {
        match self {
            Self::Here(data) => Some(data.len() as u64),
            Self::Hyper(incoming) if incoming.is_end_stream() => Some(0),
            Self::Hyper(incoming) => incoming.size_hint().exact().filter(|left| *left > 0),
            Self::Coming(coming) => match coming.framing {
                Framing::Length(left) => Some(left),
                _ => coming.stream.is_none().then_some(0),
            },
        }
    }
}

fn give_back(stream: Stream, input: BytesMut, output: Vec<u8>, home: &Home) {
    let stream = match stream {
        Stream::Whole(stream) => stream,
        Stream::Half(half, sending) => {
            // An answer that is complete before its request is leaves a connection in a state that nobody knows.
            if !sending.is_finished() {
                sending.abort();
                return;
            }
            let Some(Ok(Some(sent))) = futures::FutureExt::now_or_never(sending) else { return };
            let Ok(stream) = half.reunite(sent) else { return };
            stream
        }
    };
    if home.keep {
        home.pool.put(home.instance, Wire { stream, input, output });
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Some(Stream::Half(_, sending)) = &self.stream {
            sending.abort();
        }
    }
}

impl Coming {
    fn end(&mut self) {
        self.framing = Framing::Length(0);
        if let Some(stream) = self.stream.take() {
            give_back(stream, std::mem::take(&mut self.input), std::mem::take(&mut self.output), &self.home);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match self.framing {
                Framing::Length(0) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Framing::Length(left) if !self.input.is_empty() => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
                    let data = self.input.split_to(here).freeze();
                    self.framing = Framing::Length(left - here as u64);
                    if self.framing == Framing::Length(0) {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Framing::Chunked => match self.chunks.take(&mut self.input) {
                    Ok(Some(Piece::Data(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(Some(Piece::End(trailers))) => {
                        self.end();
                        return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                    }
                    Ok(None) => {}
                    Err(Malformed(why)) => return Poll::Ready(Some(Err(why.into()))),
                },
                Framing::UntilClose | Framing::Upgraded if !self.input.is_empty() => {
                    let data = self.input.split().freeze();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                _ => {}
            }
            self.input.reserve(READ);
            let read = match &mut self.stream {
                Some(Stream::Whole(stream)) => ready!(poll_read_buf(Pin::new(stream), cx, &mut self.input)),
                Some(Stream::Half(half, _)) => ready!(poll_read_buf(Pin::new(half), cx, &mut self.input)),
                None => return Poll::Ready(None),
            };
            match read {
                Ok(0) if self.framing == Framing::UntilClose => self.end(),
                Ok(0) => return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Here(data) if data.is_empty() => Poll::Ready(None),
            Self::Here(data) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Self::Coming(coming) => coming.poll_frame(cx),
            Self::Hyper(incoming) => Pin::new(&mut **incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
