//! Reads the query language: words, `"phrases"`, `begin*`, `field:value`, `level:>=warn`, AND, OR, NOT or `-`, parentheses.
//! Words side by side are joined by AND; AND binds closer than OR. Bounded in length, depth and number of parts.

use super::{Leaf, Query};

const MAX_CHARS: usize = 2_000;
const MAX_DEPTH: usize = 24;
const MAX_LEAVES: usize = 100;

/// The query can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {message}")]
pub struct ParseError {
    /// Counted from 1.
    pub at: usize,
    pub message: &'static str,
}

/// Reads a query; an empty one is every line.
///
/// # Errors
/// Where it stops being one, and what is expected there.
pub fn parse(text: &str) -> Result<Query, ParseError> {
    let chars: Vec<char> = text.chars().collect();
    let mut parser = Parser { chars: &chars, at: 0, depth: 0, leaves: 0 };
    if chars.len() > MAX_CHARS {
        return Err(parser.error("a query has at most 2000 characters"));
    }
    parser.skip_blanks();
    if parser.peek().is_none() {
        return Ok(Query::All);
    }
    let query = parser.alternatives()?;
    match parser.peek() {
        None => Ok(query),
        Some(_) => Err(parser.error("`)` without `(`")),
    }
}

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
    depth: usize,
    leaves: usize,
}

impl Parser<'_> {
    fn alternatives(&mut self) -> Result<Query, ParseError> {
        let mut parts = vec![self.conjunction()?];
        while self.take_operator("OR") {
            parts.push(self.conjunction()?);
        }
        Ok(Query::or(parts))
    }

    fn conjunction(&mut self) -> Result<Query, ParseError> {
        let mut parts = vec![self.negation()?];
        loop {
            if self.take_operator("AND") {
                parts.push(self.negation()?);
                continue;
            }
            match self.peek() {
                None | Some(')') => break,
                Some(_) if self.at_operator("OR") => break,
                Some(_) => parts.push(self.negation()?),
            }
        }
        Ok(Query::and(parts))
    }

    fn negation(&mut self) -> Result<Query, ParseError> {
        let negated = self.take_operator("NOT") || self.take('-');
        self.skip_blanks();
        if !negated {
            return self.operand();
        }
        self.deeper()?;
        let inner = self.negation()?;
        self.depth -= 1;
        Ok(Query::Not(Box::new(inner)))
    }

    fn operand(&mut self) -> Result<Query, ParseError> {
        match self.peek() {
            None => Err(self.error("a word is missing")),
            Some(')') => Err(self.error("a word is missing before `)`")),
            Some('(') => {
                self.deeper()?;
                self.at += 1;
                self.skip_blanks();
                let inner = self.alternatives()?;
                if !self.take(')') {
                    return Err(self.error("`)` is missing"));
                }
                self.depth -= 1;
                self.skip_blanks();
                Ok(inner)
            }
            Some(_) => {
                self.leaves += 1;
                if self.leaves > MAX_LEAVES {
                    return Err(self.error("a query has at most 100 words"));
                }
                let leaf = self.leaf()?;
                self.skip_blanks();
                Ok(leaf)
            }
        }
    }

    fn leaf(&mut self) -> Result<Query, ParseError> {
        let start = self.at;
        if self.peek() == Some('"') {
            let phrase = self.quoted()?;
            let prefix = self.take('*');
            return self.words(start, &phrase, prefix);
        }
        if let Some(name) = self.field_name() {
            return self.field(start, &name);
        }
        let mut word = self.bare(false);
        let prefix = word.ends_with('*');
        if prefix {
            word.pop();
        }
        self.words(start, &word, prefix)
    }

    fn words(&self, start: usize, text: &str, prefix: bool) -> Result<Query, ParseError> {
        Query::words(text, prefix).ok_or(ParseError { at: start + 1, message: "a word needs a letter or a digit" })
    }

    /// `name:` if that is what stands here, and something follows; a time such as `12:30` is no field.
    fn field_name(&mut self) -> Option<String> {
        let rest = &self.chars[self.at..];
        let length = rest.iter().position(|c| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '@' | '/')))?;
        let follows = rest.get(length + 1).is_some_and(|c| !c.is_whitespace() && !matches!(c, '(' | ')'));
        if rest[0].is_numeric() || length == 0 || rest[length] != ':' || !follows {
            return None;
        }
        self.at += length + 1;
        Some(rest[..length].iter().collect())
    }

    fn field(&mut self, start: usize, name: &str) -> Result<Query, ParseError> {
        let value_at = self.at;
        let (value, quoted) = if self.peek() == Some('"') { (self.quoted()?, true) } else { (self.bare(true), false) };
        let bad_level =
            ParseError { at: value_at + 1, message: "a level is one of trace, debug, info, warn, error, fatal" };
        let leaf = match name {
            "service" => Leaf::Service(value),
            "level" => match value.strip_prefix(">=") {
                Some(level) => Leaf::AtLeast(level.parse().map_err(|_| bad_level)?),
                None => Leaf::Level(value.parse().map_err(|_| bad_level)?),
            },
            "traceId" => Leaf::TraceId(value),
            "id" => Leaf::Id(value),
            "message" => {
                let prefix = if quoted { self.take('*') } else { value.ends_with('*') };
                return self.words(start, &value, prefix);
            }
            path => Leaf::Attribute { path: path.strip_prefix("attributes.").unwrap_or(path).to_owned(), value },
        };
        match &leaf {
            Leaf::Attribute { path, .. } if path.is_empty() => {
                Err(ParseError { at: start + 1, message: "the name of the attribute is missing" })
            }
            _ => Ok(Query::Leaf(leaf)),
        }
    }

    /// Up to the next blank or parenthesis; a quote inside ends a word, but not a value.
    fn bare(&mut self, value: bool) -> String {
        let rest = &self.chars[self.at..];
        let ends = |c: &char| c.is_whitespace() || matches!(c, '(' | ')') || (!value && *c == '"');
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        self.at += length;
        rest[..length].iter().collect()
    }

    /// A quoted text; `\` takes the next character as it is.
    fn quoted(&mut self) -> Result<String, ParseError> {
        let opening = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                '"' => return Ok(text),
                '\\' => match self.peek() {
                    Some(next) => {
                        self.at += 1;
                        text.push(next);
                    }
                    None => break,
                },
                c => text.push(c),
            }
        }
        Err(ParseError { at: opening + 1, message: "the closing quote is missing" })
    }

    fn at_operator(&self, operator: &str) -> bool {
        let rest = &self.chars[self.at..];
        let length = operator.len();
        rest.len() >= length
            && rest.iter().zip(operator.chars()).all(|(a, b)| *a == b)
            && rest.get(length).is_none_or(|c| c.is_whitespace() || matches!(c, '(' | ')'))
    }

    fn take_operator(&mut self, operator: &str) -> bool {
        let found = self.at_operator(operator);
        if found {
            self.at += operator.len();
            self.skip_blanks();
        }
        found
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn deeper(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.error("a query is at most 24 levels deep")) } else { Ok(()) }
    }

    fn error(&self, message: &'static str) -> ParseError {
        ParseError { at: self.at + 1, message }
    }
}
