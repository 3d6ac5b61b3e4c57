//! Looks at the raw bytes of HTTP/1 heads for what hyper accepts or hides and a gateway must refuse: `Content-Length` beside
//! `Transfer-Encoding` (hyper drops the former without a word) and lines that end in a bare LF (RFC 9112 sections 2.2, 6.1).
//! It does not parse: hyper does.

use std::collections::VecDeque;

const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
/// Heads that were seen and not asked for yet; a client that pipelines more is simply not looked at further.
const MOST_VERDICTS: usize = 64;

/// What is wrong with one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Two ways to tell where the body ends.
    TwoLengths,
    BareLineFeed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In or before a head.
    Head,
    /// In a body, whose end only hyper knows.
    Body,
    /// Not HTTP/1 any more.
    Off,
}

/// Follows one connection.
#[derive(Debug)]
pub struct Sniffer {
    phase: Phase,
    verdicts: VecDeque<Verdict>,
    /// The line's first bytes, lower case.
    start: [u8; 18],
    length: usize,
    last: u8,
    any_line: bool,
    has_length: bool,
    has_encoding: bool,
    bare: bool,
}

impl Default for Sniffer {
    fn default() -> Self {
        Self {
            phase: Phase::Head,
            verdicts: VecDeque::new(),
            start: [0; 18],
            length: 0,
            last: 0,
            any_line: false,
            has_length: false,
            has_encoding: false,
            bare: false,
        }
    }
}

impl Sniffer {
    /// Bytes as they were read.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.phase == Phase::Head && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            for byte in part.iter().take(self.start.len().saturating_sub(self.length)) {
                self.start[self.length] = byte.to_ascii_lowercase();
                self.length += 1;
            }
            // Beyond the buffer only "not empty" matters, and that it is already.
            self.last = part.last().copied().unwrap_or(self.last);
            let Some(end) = end else { return };
            bytes = &bytes[end + 1..];
            self.line();
        }
    }

    /// What was found in the head of the next request; `None` if it was not seen whole.
    pub fn verdict(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }

    /// The request with the body is over: the next bytes begin a head.
    pub fn resume(&mut self) {
        if self.phase == Phase::Body {
            self.phase = Phase::Head;
        }
    }

    /// The bytes are another protocol's now.
    pub fn stop(&mut self) {
        self.phase = Phase::Off;
    }

    fn line(&mut self) {
        self.bare |= self.last != b'\r';
        let text = &self.start[..self.length];
        let empty = text.is_empty() || text == b"\r";
        let is = |name: &[u8]| {
            text.strip_prefix(name)
                .is_some_and(|rest| rest.first().is_none_or(|byte| matches!(byte, b':' | b' ' | b'\t')))
        };
        if self.any_line {
            self.has_length |= is(CONTENT_LENGTH);
            self.has_encoding |= is(TRANSFER_ENCODING);
        }
        (self.length, self.last) = (0, 0);
        if !empty {
            self.any_line = true;
        } else if self.any_line {
            self.end();
        }
    }

    fn end(&mut self) {
        let verdict = match (self.has_length && self.has_encoding, self.bare) {
            (true, _) => Verdict::TwoLengths,
            (false, true) => Verdict::BareLineFeed,
            (false, false) => Verdict::Good,
        };
        if self.has_length || self.has_encoding || self.verdicts.len() >= MOST_VERDICTS {
            self.phase = Phase::Body;
        }
        if self.verdicts.len() < MOST_VERDICTS {
            self.verdicts.push_back(verdict);
        }
        (self.any_line, self.has_length, self.has_encoding, self.bare) = (false, false, false, false);
    }
}
