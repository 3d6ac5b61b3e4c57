//! SCIM 2.0 (RFC 7642 to 7644) without HTTP and SQL: schemas, filters, paths, PATCH, and how a document becomes a person.

pub mod document;
pub mod filter;
pub mod group;
pub mod matching;
pub mod patch;
pub mod person;
pub mod projection;
pub mod schema;

/// A JSON object, attribute by attribute.
pub type Document = serde_json::Map<String, serde_json::Value>;

/// What is wrong with a request, by the words of RFC 7644 section 3.12; each with a sentence for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    InvalidFilter(String),
    #[error("{0}")]
    InvalidPath(String),
    #[error("{0}")]
    InvalidSyntax(String),
    #[error("{0}")]
    InvalidValue(String),
    #[error("{0}")]
    Mutability(String),
    #[error("{0}")]
    NoTarget(String),
}

impl Fault {
    /// Its code in a problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidFilter(_) => "invalid_filter",
            Self::InvalidPath(_) => "invalid_path",
            Self::InvalidSyntax(_) => "invalid_syntax",
            Self::InvalidValue(_) => "invalid_value",
            Self::Mutability(_) => "mutability",
            Self::NoTarget(_) => "no_target",
        }
    }
}

impl From<Fault> for kronos_common::problem::Problem {
    fn from(fault: Fault) -> Self {
        Self::bad_request(fault.code(), fault.to_string())
    }
}
