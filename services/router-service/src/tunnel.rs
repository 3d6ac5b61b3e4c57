//! A WebSocket after its upgrade: bytes both ways, untouched, but both sides' frames are followed, so that a drain can close it by
//! the rules: 1001, going away (RFC 6455 section 7.4.1), between two frames.

use std::{cell::Cell, io, time::Duration};

use bytes::BytesMut;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::upstream::Duplex;

/// How long a frame that is under way may take to end, and then the other side to say goodbye.
const PATIENCE: Duration = Duration::from_millis(700);
/// Close, two bytes: 1001.
const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];
/// The same as a client says it, under a mask of zeros.
const GOING_AWAY_MASKED: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];
const BUFFER: usize = 16 * 1024;

/// Follows the frames of one direction (RFC 6455 section 5.2).
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; 14],
    have: usize,
    payload: u64,
}

impl Frames {
    /// Bytes as they pass.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let part = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= part as u64;
                bytes = &bytes[part..];
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if let Some(payload) = self.complete_head() {
                (self.payload, self.have) = (payload, 0);
            }
        }
    }

    /// Whether the next byte begins a frame.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    fn complete_head(&self) -> Option<u64> {
        let known = &self.head[..self.have];
        let second = *known.get(1)?;
        let (extended, mask) = match second & 0x7f {
            126 => (2, usize::from(second >> 7) * 4),
            127 => (8, usize::from(second >> 7) * 4),
            _ => (0, usize::from(second >> 7) * 4),
        };
        if known.len() < 2 + extended + mask {
            return None;
        }
        Some(match extended {
            0 => u64::from(second & 0x7f),
            _ => known[2..2 + extended].iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
        })
    }
}

/// Passes bytes both ways until one side ends or the gateway does; `first` came with the instance's head. The bytes that went to
/// the client come back; `None`: the gateway ended it, or it broke.
pub async fn run(
    client: TokioIo<Upgraded>,
    instance: Box<dyn Duplex>,
    first: BytesMut,
    shutdown: CancellationToken,
) -> Option<u64> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_instance, mut to_instance) = tokio::io::split(instance);
    let sent = Cell::new(first.len() as u64);
    let down = async {
        let mut frames = Frames::default();
        frames.feed(&first);
        to_client.write_all(&first).await?;
        pass(&mut from_instance, &mut to_client, frames, &shutdown, &GOING_AWAY, &sent).await
    };
    let taken = Cell::new(0);
    let up = pass(&mut from_client, &mut to_instance, Frames::default(), &shutdown, &GOING_AWAY_MASKED, &taken);
    let both = async { futures::future::try_join(down, up).await };
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        ended = both => match ended {
            Ok((false, false)) => Some(sent.get()),
            Ok(_) => {
                // What it still sends would turn the goodbye into a reset.
                let _ = timeout(PATIENCE, tokio::io::copy(&mut from_client, &mut tokio::io::sink())).await;
                None
            }
            Err(_) => None,
        },
        () = drained => None,
    }
}

/// One direction. True: it was closed for the drain.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut frames: Frames,
    shutdown: &CancellationToken,
    goodbye: &[u8],
    passed: &Cell<u64>,
) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            biased;
            () = shutdown.cancelled(), if frames.is_between() => {
                to.write_all(goodbye).await?;
                to.flush().await?;
                return Ok(true);
            }
            read = from.read(&mut buffer) => read?,
        };
        if read == 0 {
            to.shutdown().await?;
            return Ok(false);
        }
        frames.feed(&buffer[..read]);
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        passed.set(passed.get() + read as u64);
    }
}
