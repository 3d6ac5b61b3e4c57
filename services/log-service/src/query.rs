//! What a search asks for: one tree, which is matched here against a line (live tail), and compiled to SQL and to
//! Elasticsearch's language in `store`. All three look at the terms of a line (see `terms`), so they agree.

mod parse;

use std::fmt;

use chrono::{DateTime, Utc};

use crate::{
    line::{Level, Line},
    terms,
};

pub use parse::{ParseError, parse};

/// A condition on a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Query {
    /// Every line.
    All,
    Leaf(Leaf),
    Not(Box<Query>),
    /// At least two.
    And(Vec<Query>),
    /// At least two.
    Or(Vec<Query>),
}

/// A condition that has no parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// These words in this order, somewhere in the message or in one attribute's value; with `prefix`, the last one may go on.
    Words {
        words: Vec<String>,
        prefix: bool,
    },
    Service(String),
    Level(Level),
    /// This level or a worse one.
    AtLeast(Level),
    TraceId(String),
    Id(String),
    /// The attribute at this path has exactly this value.
    Attribute {
        path: String,
        value: String,
    },
}

impl Query {
    /// Words in the form that `terms` gives them; nothing if there is no letter or digit.
    pub fn words(text: &str, prefix: bool) -> Option<Self> {
        let words: Vec<String> = terms::words(text).filter(|word| !word.is_empty()).collect();
        (!words.is_empty()).then_some(Self::Leaf(Leaf::Words { words, prefix }))
    }

    /// All of them; flat.
    pub fn and(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::And(inner) => flat.extend(inner),
                Self::All => {}
                other => flat.push(other),
            }
        }
        match flat.len() {
            0 => Self::All,
            1 => flat.swap_remove(0),
            _ => Self::And(flat),
        }
    }

    /// Any of them; flat. At least one must be given.
    pub fn or(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        if flat.len() == 1 { flat.swap_remove(0) } else { Self::Or(flat) }
    }

    /// Whether the line fulfils it.
    pub fn matches(&self, line: &Line) -> bool {
        match self {
            Self::All => true,
            Self::Leaf(leaf) => leaf.matches(line),
            Self::Not(inner) => !inner.matches(line),
            Self::And(parts) => parts.iter().all(|part| part.matches(line)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(line)),
        }
    }
}

impl Leaf {
    /// The text that the terms of a fitting line contain, for words and attributes. Free of `%`, `_` and `\`.
    pub fn needle(&self) -> Option<String> {
        match self {
            Self::Words { words, prefix } => {
                let end = if *prefix { "" } else { " " };
                Some(format!(" {}{end}", words.join(" ")))
            }
            Self::Attribute { path, value } => Some(format!(" {} ", terms::pair(path, value))),
            _ => None,
        }
    }

    fn matches(&self, line: &Line) -> bool {
        match self {
            Self::Words { .. } | Self::Attribute { .. } => {
                self.needle().is_some_and(|needle| line.terms.contains(&needle))
            }
            Self::Service(service) => line.service == *service,
            Self::Level(level) => line.level == *level,
            Self::AtLeast(level) => line.level >= *level,
            Self::TraceId(trace_id) => line.trace_id.as_ref() == Some(trace_id),
            Self::Id(id) => line.id == *id,
        }
    }
}

/// Prints what `parse` reads back as the same tree.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Leaf(leaf) => leaf.fmt(f),
            Self::Not(inner) => match **inner {
                Self::And(_) | Self::Or(_) => write!(f, "NOT ({inner})"),
                _ => write!(f, "NOT {inner}"),
            },
            Self::And(parts) => join(parts, " AND ", f),
            Self::Or(parts) => join(parts, " OR ", f),
        }
    }
}

/// Only OR inside AND needs parentheses.
fn join(parts: &[Query], operator: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(operator)?;
        }
        match part {
            Query::Or(_) => write!(f, "({part})")?,
            other => write!(f, "{other}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words { words, prefix } => {
                write!(f, "\"{}\"{}", words.join(" "), if *prefix { "*" } else { "" })
            }
            Self::Service(value) => write!(f, "service:{}", Quoted(value)),
            Self::Level(level) => write!(f, "level:{level}"),
            Self::AtLeast(level) => write!(f, "level:>={level}"),
            Self::TraceId(value) => write!(f, "traceId:{}", Quoted(value)),
            Self::Id(value) => write!(f, "id:{}", Quoted(value)),
            Self::Attribute { path, value } => write!(f, "attributes.{path}:{}", Quoted(value)),
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// All the conditions of a request: those of its parameters and its query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    pub query: Query,
    /// From here on.
    pub from: Option<DateTime<Utc>>,
    /// Before here.
    pub to: Option<DateTime<Utc>>,
}

impl Filter {
    /// Joins parameters and query. Several services or levels: any of them.
    pub fn new(
        query: Query,
        services: &[String],
        levels: &[Level],
        trace_id: Option<&str>,
        from: Option<DateTime<Utc>>,
        to: Option<DateTime<Utc>>,
    ) -> Self {
        let any = |leaves: Vec<Leaf>| (!leaves.is_empty()).then(|| Query::or(leaves.into_iter().map(Query::Leaf)));
        let services = any(services.iter().cloned().map(Leaf::Service).collect());
        let levels = any(levels.iter().copied().map(Leaf::Level).collect());
        let trace_id = trace_id.map(|id| Query::Leaf(Leaf::TraceId(id.to_owned())));
        Self { query: Query::and([services, levels, trace_id, Some(query)].into_iter().flatten()), from, to }
    }

    /// Whether the line fulfils all of them.
    pub fn matches(&self, line: &Line) -> bool {
        self.from.is_none_or(|from| line.occurred_at >= from)
            && self.to.is_none_or(|to| line.occurred_at < to)
            && self.query.matches(line)
    }
}
