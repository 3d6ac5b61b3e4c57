//! Filters and attribute paths (RFC 7644 sections 3.4.2.2 and 3.5.2): their grammar, and nothing of what they mean.

use std::fmt;

use serde_json::Value;

use super::Fault;

/// How deep brackets may stand in brackets. Nobody writes more; a stack has an end.
pub const DEEPEST: usize = 32;
/// How many comparisons a filter may have.
pub const MOST_TERMS: usize = 200;

/// A filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// At least two.
    And(Vec<Filter>),
    /// At least two.
    Or(Vec<Filter>),
    Not(Box<Filter>),
    Compare(AttributePath, Operator, Value),
    Present(AttributePath),
    /// One and the same value of a list passes the filter.
    Element(AttributePath, Box<Filter>),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    EndsWith,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// The words of the grammar.
pub const OPERATORS: [(&str, Operator); 9] = [
    ("eq", Operator::Equal),
    ("ne", Operator::NotEqual),
    ("co", Operator::Contains),
    ("sw", Operator::StartsWith),
    ("ew", Operator::EndsWith),
    ("gt", Operator::Greater),
    ("ge", Operator::GreaterOrEqual),
    ("lt", Operator::Less),
    ("le", Operator::LessOrEqual),
];

/// `name.familyName`, perhaps with a schema's URN before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributePath {
    pub urn: Option<String>,
    pub name: String,
    pub part: Option<String>,
}

/// What a PATCH operation is aimed at: `emails[type eq "work"].value`.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Its part stands here also if it comes after the filter.
    pub attribute: AttributePath,
    pub filter: Option<Filter>,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// `invalidFilter`, which says where.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut reader = Reader { text, at: 0, depth: 0, terms: 0 };
        let filter = reader.either()?;
        reader.end()?;
        Ok(filter)
    }
}

impl AttributePath {
    /// Reads an attribute's name, as `sortBy` and `attributes` have it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader { text: text.trim(), at: 0, depth: 0, terms: 0 };
        let path = reader.attribute().ok()?;
        reader.end().ok()?;
        Some(path)
    }
}

impl Target {
    /// Reads the path of a PATCH operation.
    ///
    /// # Errors
    /// `invalidPath`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut reader = Reader { text: text.trim(), at: 0, depth: 0, terms: 0 };
        reader.target().map_err(|fault| Fault::InvalidPath(fault.to_string()))
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    terms: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn fault<T>(&self, what: &str) -> Result<T, Fault> {
        Err(Fault::InvalidFilter(format!("{what} at character {}", self.text[..self.at].chars().count() + 1)))
    }

    fn blanks(&mut self) -> bool {
        let rest = self.rest();
        let skipped = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        self.at += skipped;
        skipped > 0
    }

    /// Takes this character if it comes next.
    fn take(&mut self, wanted: char) -> bool {
        let comes = self.rest().starts_with(wanted);
        self.at += if comes { wanted.len_utf8() } else { 0 };
        comes
    }

    /// The word that comes next, not taken.
    fn peek_word(&self) -> &str {
        let end = self.rest().find(|character: char| !character.is_ascii_alphabetic());
        &self.rest()[..end.unwrap_or(self.rest().len())]
    }

    fn take_word(&mut self, wanted: &str) -> bool {
        let comes = self.peek_word().eq_ignore_ascii_case(wanted);
        self.at += if comes { wanted.len() } else { 0 };
        comes
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.blanks();
        if self.rest().is_empty() { Ok(()) } else { self.fault("the filter should end") }
    }

    fn either(&mut self) -> Result<Filter, Fault> {
        let mut filters = vec![self.both()?];
        loop {
            let before = self.at;
            if self.blanks() && self.take_word("or") {
                filters.push(self.both()?);
            } else {
                self.at = before;
                return Ok(one_or(filters, Filter::Or));
            }
        }
    }

    fn both(&mut self) -> Result<Filter, Fault> {
        let mut filters = vec![self.term()?];
        loop {
            let before = self.at;
            if self.blanks() && self.take_word("and") {
                filters.push(self.term()?);
            } else {
                self.at = before;
                return Ok(one_or(filters, Filter::And));
            }
        }
    }

    fn term(&mut self) -> Result<Filter, Fault> {
        self.blanks();
        let before = self.at;
        if self.take_word("not") {
            self.blanks();
            if self.rest().starts_with('(') {
                return Ok(Filter::Not(Box::new(self.within('(', ')')?)));
            }
            self.at = before;
        }
        if self.rest().starts_with('(') {
            return self.within('(', ')');
        }
        self.terms += 1;
        if self.terms > MOST_TERMS {
            return Err(Fault::InvalidFilter(format!("a filter may have {MOST_TERMS} comparisons, not more")));
        }
        let mut path = self.attribute()?;
        if !self.rest().starts_with('[') {
            return self.comparison(path);
        }
        if path.part.is_some() {
            return self.fault("only a whole attribute has elements");
        }
        let filter = self.within('[', ']')?;
        if !self.take('.') {
            return Ok(Filter::Element(path, Box::new(filter)));
        }
        // Not in the grammar, but directories send it: `emails[type eq "work"].value eq "x"`.
        let part = AttributePath { urn: None, name: self.name()?, part: None };
        let comparison = self.comparison(part)?;
        path.part = None;
        Ok(Filter::Element(path, Box::new(Filter::And(vec![filter, comparison]))))
    }

    fn within(&mut self, open: char, close: char) -> Result<Filter, Fault> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Fault::InvalidFilter(format!("brackets may stand {DEEPEST} deep in each other, not deeper")));
        }
        self.take(open);
        let filter = self.either()?;
        self.blanks();
        if !self.take(close) {
            return self.fault(&format!("`{close}` is missing"));
        }
        self.depth -= 1;
        Ok(filter)
    }

    fn comparison(&mut self, path: AttributePath) -> Result<Filter, Fault> {
        if !self.blanks() {
            return self.fault("an operator is missing");
        }
        if self.take_word("pr") {
            return Ok(Filter::Present(path));
        }
        let word = self.peek_word();
        let Some((word, operator)) = OPERATORS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) else {
            return self.fault("one of eq, ne, co, sw, ew, gt, ge, lt, le, pr should stand");
        };
        self.at += word.len();
        if !self.blanks() {
            return self.fault("a value is missing");
        }
        Ok(Filter::Compare(path, *operator, self.value()?))
    }

    fn value(&mut self) -> Result<Value, Fault> {
        if self.rest().starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
            let Some(Ok(text)) = values.next() else { return self.fault("a text in quotes should stand") };
            self.at += values.byte_offset();
            if text.contains('\0') {
                return Err(Fault::InvalidFilter("no value holds U+0000".to_owned()));
            }
            return Ok(Value::String(text));
        }
        let end = self.rest().find([' ', '\t', ')', ']']).unwrap_or(self.rest().len());
        let word = self.rest()[..end].to_owned();
        let value = match word.to_ascii_lowercase().as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            number => match serde_json::from_str::<serde_json::Number>(number) {
                Ok(number) => Value::Number(number),
                Err(_) => return self.fault("a value should stand: a text in quotes, a number, true, false or null"),
            },
        };
        self.at += end;
        Ok(value)
    }

    /// `urn:…:name.part`. The last colon ends the URN, which has dots of its own.
    fn attribute(&mut self) -> Result<AttributePath, Fault> {
        let is_urn = self.rest().get(..4).is_some_and(|start| start.eq_ignore_ascii_case("urn:"));
        let urn = if is_urn {
            let named = |character: char| character.is_ascii_alphanumeric() || ":._-".contains(character);
            let end = self.rest().find(|character| !named(character)).unwrap_or(self.rest().len());
            let length = self.rest()[..end].rfind(':').unwrap_or_default();
            let urn = self.rest()[..length].to_owned();
            self.at += length + 1;
            Some(urn)
        } else {
            None
        };
        let name = self.name()?;
        let part = if self.take('.') { Some(self.name()?) } else { None };
        Ok(AttributePath { urn, name, part })
    }

    fn name(&mut self) -> Result<String, Fault> {
        let named = |character: char| character.is_ascii_alphanumeric() || "$_-".contains(character);
        let end = self.rest().find(|character| !named(character)).unwrap_or(self.rest().len());
        let name = self.rest()[..end].to_owned();
        if !name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '$') {
            return self.fault("the name of an attribute should stand");
        }
        self.at += end;
        Ok(name)
    }

    fn target(&mut self) -> Result<Target, Fault> {
        let mut attribute = self.attribute()?;
        let mut filter = None;
        if attribute.part.is_none() && self.rest().starts_with('[') {
            filter = Some(self.within('[', ']')?);
            attribute.part = if self.take('.') { Some(self.name()?) } else { None };
        }
        self.end()?;
        Ok(Target { attribute, filter })
    }
}

fn one_or(mut filters: Vec<Filter>, all: impl FnOnce(Vec<Filter>) -> Filter) -> Filter {
    if filters.len() == 1 { filters.remove(0) } else { all(filters) }
}

impl fmt::Display for AttributePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(urn) = &self.urn {
            write!(f, "{urn}:")?;
        }
        f.write_str(&self.name)?;
        self.part.as_ref().map_or(Ok(()), |part| write!(f, ".{part}"))
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = OPERATORS.iter().find(|(_, operator)| operator == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |filters: &[Self], word: &str| {
            for (number, filter) in filters.iter().enumerate() {
                let word = if number > 0 { word } else { "" };
                match filter {
                    Self::And(_) | Self::Or(_) => write!(f, "{word}({filter})")?,
                    _ => write!(f, "{word}{filter}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::And(filters) => list(filters, " and "),
            Self::Or(filters) => list(filters, " or "),
            Self::Not(filter) => write!(f, "not ({filter})"),
            Self::Compare(path, operator, value) => write!(f, "{path} {operator} {value}"),
            Self::Present(path) => write!(f, "{path} pr"),
            Self::Element(path, filter) => write!(f, "{path}[{filter}]"),
        }
    }
}
