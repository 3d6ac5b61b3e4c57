//! HTTP/1.1 as an instance speaks it: the head of its answer, and how its body is delimited (RFC 9112). What could be read in
//! two ways is refused, as it is on the clients' side. No I/O.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// Header lines of an answer.
const MOST_HEADERS: usize = 128;
/// Bytes of an answer's head, of a chunk's size line, of the trailers.
const LARGEST_HEAD: usize = 128 * 1024;
const LONGEST_SIZE_LINE: usize = 1024;
const LARGEST_TRAILERS: usize = 16 * 1024;
/// The gateway's own headers are added to an answer's: room, so that the map does not grow.
const OWN_HEADERS: usize = 10;

/// What an instance sent is no HTTP/1.1, or ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
    /// What follows is another protocol.
    Upgraded,
}

/// The head of an answer, without what ends at this hop or tells of the inside.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The connection may be used again after the body.
    pub keep: bool,
    /// The protocol that a 101 changes to.
    pub upgrade: Option<HeaderValue>,
}

/// Takes a final answer's head off `input`; interim ones (but 101) are dropped. `None`: more bytes are needed.
///
/// # Errors
/// What is no HTTP/1.1 answer, is too large, or has a body whose end could be read in two ways.
pub fn head(input: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
    loop {
        let mut lines = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, input, &mut lines);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if input.len() <= LARGEST_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(Malformed("the head is too large")),
            Err(_) => return Err(Malformed("the head is no HTTP/1.1")),
        };
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed("the status is none"))?;
        let is_11 = response.version == Some(1);
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            input.advance(length);
            continue;
        }
        let begin = input.as_ptr().addr();
        // Where each line stands in the bytes that are about to be frozen.
        let mut places = [(0_u32, 0_u32, 0_u32, 0_u32); MOST_HEADERS];
        let count = response.headers.len();
        for (place, line) in places.iter_mut().zip(response.headers.iter()) {
            let (name, value) = (line.name.as_ptr().addr() - begin, line.value.as_ptr().addr() - begin);
            *place = (small(name), small(name + line.name.len()), small(value), small(value + line.value.len()));
        }
        let bytes = input.split_to(length).freeze();
        return Reader::new(status, is_11, count).read(&bytes, &places[..count], method).map(Some);
    }
}

fn small(at: usize) -> u32 {
    // A head has at most 128 KiB and what one read brought beside it.
    u32::try_from(at).unwrap_or(u32::MAX)
}

struct Reader {
    status: StatusCode,
    is_11: bool,
    headers: HeaderMap,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade: Option<HeaderValue>,
    named: Vec<HeaderName>,
}

impl Reader {
    fn new(status: StatusCode, is_11: bool, count: usize) -> Self {
        let headers = HeaderMap::with_capacity(count + OWN_HEADERS);
        Self {
            status,
            is_11,
            headers,
            length: None,
            chunked: false,
            close: false,
            keep_alive: false,
            upgrade: None,
            named: Vec::new(),
        }
    }

    fn read(mut self, bytes: &Bytes, places: &[(u32, u32, u32, u32)], method: &Method) -> Result<Head, Malformed> {
        for (name, name_end, value, value_end) in places {
            let name = HeaderName::from_bytes(&bytes[*name as usize..*name_end as usize])
                .map_err(|_| Malformed("a header's name is none"))?;
            let value = HeaderValue::from_maybe_shared(bytes.slice(*value as usize..*value_end as usize))
                .map_err(|_| Malformed("a header's value is none"))?;
            self.line(name, value)?;
        }
        for name in std::mem::take(&mut self.named) {
            self.headers.remove(name);
        }
        if self.chunked && (self.length.is_some() || !self.is_11) {
            return Err(Malformed("the body's end could be read in two ways"));
        }
        let keep = !self.close && (self.is_11 || self.keep_alive);
        let bodiless =
            *method == Method::HEAD || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framing = match (self.status, self.length) {
            (StatusCode::SWITCHING_PROTOCOLS, _) => Framing::Upgraded,
            _ if bodiless => Framing::Length(0),
            _ if self.chunked => Framing::Chunked,
            (_, Some(length)) => Framing::Length(length),
            (_, None) => Framing::UntilClose,
        };
        if let Some(length) = self.length
            && self.status != StatusCode::NO_CONTENT
        {
            self.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let Self { status, headers, upgrade, .. } = self;
        Ok(Head { status, headers, framing, keep: keep && framing != Framing::UntilClose, upgrade })
    }

    fn line(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Malformed> {
        match name {
            header::CONTENT_LENGTH => {
                let length = decimal(value.as_bytes()).ok_or(Malformed("the length is none"))?;
                if self.length.replace(length).is_some_and(|known| known != length) {
                    return Err(Malformed("there are two lengths"));
                }
            }
            header::TRANSFER_ENCODING => {
                // Another coding could not be passed on, for nobody here undoes it.
                if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("a transfer coding other than chunked"));
                }
                self.chunked = true;
            }
            header::CONNECTION => {
                for token in value.to_str().unwrap_or_default().split(',').map(str::trim) {
                    if token.eq_ignore_ascii_case("close") {
                        self.close = true;
                    } else if token.eq_ignore_ascii_case("keep-alive") {
                        self.keep_alive = true;
                    } else if let Ok(name) = HeaderName::try_from(token) {
                        self.named.push(name);
                    }
                }
            }
            header::UPGRADE => self.upgrade = Some(value),
            header::SERVER | header::PROXY_AUTHENTICATE | header::TE => {}
            name if matches!(name.as_str(), "keep-alive" | "proxy-connection" | "x-powered-by") => {}
            name => {
                self.headers.append(name, value);
            }
        }
        Ok(())
    }
}

/// Digits only: no sign, no list.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A part of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    End(Option<HeaderMap>),
}

/// Undoes the chunked coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chunks {
    #[default]
    Size,
    Data(u64),
    /// The end of a chunk's line.
    Line,
    Trailers,
    Ended,
}

impl Chunks {
    /// The next piece, as far as it is there; `None`: more bytes are needed.
    ///
    /// # Errors
    /// What is no chunked body.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        const BAD: Malformed = Malformed("a chunk is malformed");
        loop {
            match *self {
                Self::Size => match httparse::parse_chunk_size(input) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        input.advance(length);
                        *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                    }
                    Ok(httparse::Status::Partial) if input.len() <= LONGEST_SIZE_LINE => return Ok(None),
                    Ok(httparse::Status::Partial) | Err(_) => return Err(BAD),
                },
                Self::Data(_) if input.is_empty() => return Ok(None),
                Self::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - here as u64;
                    *self = if left == 0 { Self::Line } else { Self::Data(left) };
                    return Ok(Some(Piece::Data(input.split_to(here).freeze())));
                }
                Self::Line => {
                    if !b"\r\n".starts_with(&input[..input.len().min(2)]) {
                        return Err(BAD);
                    }
                    if input.len() < 2 {
                        return Ok(None);
                    }
                    input.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers => {
                    let mut lines = [httparse::EMPTY_HEADER; MOST_HEADERS];
                    let (length, trailers) = match httparse::parse_headers(input, &mut lines) {
                        Ok(httparse::Status::Complete((length, lines))) => (length, trailers(lines)?),
                        Ok(httparse::Status::Partial) if input.len() <= LARGEST_TRAILERS => return Ok(None),
                        Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed("the trailers are malformed")),
                    };
                    input.advance(length);
                    *self = Self::Ended;
                    return Ok(Some(Piece::End(trailers)));
                }
                Self::Ended => return Ok(Some(Piece::End(None))),
            }
        }
    }
}

fn trailers(lines: &[httparse::Header<'_>]) -> Result<Option<HeaderMap>, Malformed> {
    let mut trailers = HeaderMap::new();
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed("a trailer's name is none"))?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| Malformed("a trailer's value is none"))?;
        // Framing, routing and credentials are no trailers (RFC 9110 section 6.5.1).
        let forbidden = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::HOST, header::AUTHORIZATION];
        if !forbidden.contains(&name) {
            trailers.append(name, value);
        }
    }
    Ok((!trailers.is_empty()).then_some(trailers))
}
