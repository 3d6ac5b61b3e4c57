//! Takes a file apart into lines, chunk by chunk as it comes: JSON Lines, and CSV (RFC 4180), in which a quoted cell may go over
//! several lines. It remembers one line at most.

use super::LONGEST_LINE;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<T> {
    /// Where it begins; the first one is 1.
    pub number: i64,
    pub content: Result<T, BadLine>,
}

/// Why a line cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLine {
    /// Longer than [`LONGEST_LINE`].
    TooLong,
    NotUtf8,
    /// A quote within a cell that does not begin with one, or text after a closing one, or one that is never closed.
    Quote,
}

/// Cells of CSV.
#[derive(Debug, Default)]
pub struct Csv {
    state: State,
    /// Whether there was anything but the byte order mark.
    begun: usize,
    number: i64,
    begins: i64,
    cells: Vec<Vec<u8>>,
    cell: Vec<u8>,
    length: usize,
    bad: Option<BadLine>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    CellBegins,
    Plain,
    Quoted,
    /// A quote in a quoted cell: its end, or the first of two.
    QuoteInQuoted,
    /// Up to the end of a bad line.
    Skipping,
}

const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

impl Csv {
    /// Takes bytes, and gives the lines that they complete. Empty lines are none.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Line<Vec<String>>> {
        let mut lines = Vec::new();
        for &byte in bytes {
            self.byte(byte, &mut lines);
        }
        lines
    }

    /// The last line, if it has no end of its own.
    pub fn end(&mut self) -> Option<Line<Vec<String>>> {
        if self.state == State::Quoted {
            self.bad = Some(BadLine::Quote);
        }
        self.line()
    }

    fn byte(&mut self, byte: u8, lines: &mut Vec<Line<Vec<String>>>) {
        if self.begun < MARK.len() {
            if MARK[self.begun] == byte {
                self.begun += 1;
                return;
            }
            self.begun = MARK.len();
        }
        if self.number == 0 {
            (self.number, self.begins) = (1, 1);
        }
        self.length += 1;
        if self.length > LONGEST_LINE && self.state != State::Skipping {
            self.refuse(BadLine::TooLong);
        }
        match (self.state, byte) {
            (State::Quoted, b'"') => self.state = State::QuoteInQuoted,
            (State::Quoted, byte) => {
                self.number += i64::from(byte == b'\n');
                self.cell.push(byte);
            }
            (State::QuoteInQuoted, b'"') => {
                self.cell.push(b'"');
                self.state = State::Quoted;
            }
            (_, b'\n') => {
                lines.extend(self.line());
                self.number += 1;
                self.begins = self.number;
            }
            (State::Skipping, _) => {}
            (_, b',') => {
                self.cells.push(std::mem::take(&mut self.cell));
                self.state = State::CellBegins;
            }
            // Part of the line's end; a lone one within a cell is quoted.
            (_, b'\r') => {}
            (State::CellBegins, b'"') => self.state = State::Quoted,
            (State::Plain, b'"') | (State::QuoteInQuoted, _) => self.refuse(BadLine::Quote),
            (State::CellBegins | State::Plain, byte) => {
                self.cell.push(byte);
                self.state = State::Plain;
            }
        }
    }

    fn refuse(&mut self, why: BadLine) {
        self.bad = Some(why);
        self.state = State::Skipping;
        self.cells = Vec::new();
        self.cell = Vec::new();
    }

    fn line(&mut self) -> Option<Line<Vec<String>>> {
        let was_empty = self.cells.is_empty() && self.cell.is_empty() && self.state == State::CellBegins;
        let (bad, mut cells) = (self.bad.take(), std::mem::take(&mut self.cells));
        cells.push(std::mem::take(&mut self.cell));
        (self.state, self.length) = (State::CellBegins, 0);
        if bad.is_none() && was_empty {
            return None;
        }
        let texts = || cells.into_iter().map(String::from_utf8).collect::<Result<_, _>>();
        let content = bad.map_or_else(|| texts().map_err(|_| BadLine::NotUtf8), Err);
        Some(Line { number: self.begins, content })
    }
}

/// Lines as they are.
#[derive(Debug, Default)]
pub struct Plain {
    number: i64,
    line: Vec<u8>,
    too_long: bool,
}

impl Plain {
    /// Takes bytes, and gives the lines that they complete. Empty lines are none.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Line<Vec<u8>>> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            if self.line.len() + text.len() > LONGEST_LINE {
                self.too_long = true;
                self.line = Vec::new();
            } else if !self.too_long {
                self.line.extend_from_slice(text);
            }
            if ends {
                lines.extend(self.end());
            }
        }
        lines
    }

    /// The last line, if it has no end of its own.
    pub fn end(&mut self) -> Option<Line<Vec<u8>>> {
        self.number += 1;
        let line = std::mem::take(&mut self.line);
        let too_long = std::mem::take(&mut self.too_long);
        let content = if too_long { Err(BadLine::TooLong) } else { Ok(line) };
        let is_empty = content.as_ref().is_ok_and(|line| line.trim_ascii().is_empty());
        (!is_empty).then_some(Line { number: self.number, content })
    }
}
