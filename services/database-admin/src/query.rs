//! The rules of `/db/query`: which SQL may run, and in what form. Text in, verdict out: no connection, no clock.
//!
//! What runs is never the caller's text. It is read into a syntax tree; every node of the tree must be on a list of
//! what is known to be harmless, or the statement is refused; then the tree is written out again, and that runs. So
//! comments, odd string forms and whatever two parsers could read in two ways are gone before the server sees it.
//! This is one layer of several: the role, the read-only transaction and the limits stand behind it.

pub mod allowed;
pub mod cells;
mod guard;

use std::{collections::HashSet, ops::ControlFlow};

use sqlparser::{
    ast::{Spanned as _, Statement, Value, VisitMut as _, VisitorMut},
    dialect::PostgreSqlDialect,
    parser::Parser,
    tokenizer::{Location, Token, Tokenizer, Whitespace},
};

/// Longest statement, in bytes.
pub const MAX_SQL_BYTES: usize = 64 * 1024;
/// Most tokens of a statement, white space not counted.
const MAX_TOKENS: usize = 4_000;
/// Deepest nesting of the parser.
const MAX_DEPTH: usize = 50;
/// Stack of the thread that judges, in bytes: enough for the deepest tree that `MAX_TOKENS` tokens can make.
const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Longest name that PostgreSQL does not cut, in bytes.
const MAX_NAME_BYTES: usize = 63;

/// Why a statement may not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable name of the rule.
    pub rule: &'static str,
    /// What is refused, and what to write instead where there is something.
    pub detail: String,
    /// Line from 1; 0 if it is not known.
    pub line: u64,
    /// Column from 1, in characters.
    pub column: u64,
}

impl Refusal {
    fn new(rule: &'static str, at: Location, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into(), line: at.line, column: at.column }
    }
}

/// What kind of answer a statement has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SELECT or VALUES: rows through a cursor.
    Rows,
    /// EXPLAIN: a plan, nothing is executed.
    Explain,
    /// SHOW: one setting.
    Show,
}

/// A statement that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What kind of answer it has.
    pub kind: Kind,
    /// The statement, written anew.
    pub sql: String,
    /// The highest `$n` in it.
    pub parameters: usize,
}

/// What the server knows, as far as a verdict depends on it.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Functions that may be called: on our list, and all their variants harmless by the server's own catalogue.
    pub functions: HashSet<String>,
    /// Functions that `alias.name` would call if no column has that name, and that may not be called.
    pub called_as_columns: HashSet<String>,
    /// Tables that the reader may read, as (schema, table).
    pub tables: HashSet<(String, String)>,
}

/// Judges a statement on a thread of its own: a deep tree needs a deep stack.
///
/// # Errors
/// The rule that refuses it, and where.
pub fn judge(sql: &str, known: &Known) -> Result<Judged, Refusal> {
    std::thread::scope(|scope| {
        let judge = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || judge_here(sql, known));
        let nowhere = Location::empty();
        match judge {
            // A parser that panics has not understood the statement.
            Ok(judge) => {
                judge.join().unwrap_or_else(|_| Err(Refusal::new("syntax", nowhere, "this statement can't be read")))
            }
            Err(_) => Err(Refusal::new("busy", nowhere, "no thread is free to read the statement, try again")),
        }
    })
}

fn judge_here(sql: &str, known: &Known) -> Result<Judged, Refusal> {
    if sql.len() > MAX_SQL_BYTES {
        let detail = format!("a statement has at most {MAX_SQL_BYTES} bytes");
        return Err(Refusal::new("too_long", Location::empty(), detail));
    }
    let mut statements = parse(sql, true)?;
    let mut statement = match (statements.pop(), statements.pop()) {
        (Some(one), None) => one,
        (None, _) => return Err(Refusal::new("empty", Location::empty(), "there is no statement")),
        (Some(second), Some(_)) => {
            return Err(Refusal::new("one_statement", second.span().start, "only one statement may run at a time"));
        }
    };
    let kind = guard::statement_kind(&statement)?;
    let parameters = guard::walk(&statement, known)?;
    let mut requote = Requote;
    if let ControlFlow::Break(refusal) = statement.visit(&mut requote) {
        return Err(refusal);
    }
    let written = statement.to_string();
    // What was written must mean what was judged.
    if parse(&written, false).is_ok_and(|again| again == [statement]) {
        Ok(Judged { kind, sql: written, parameters })
    } else {
        Err(Refusal::new("unclear", Location::empty(), "this can't be written out unambiguously: write it more simply"))
    }
}

fn parse(sql: &str, callers: bool) -> Result<Vec<Statement>, Refusal> {
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|error| Refusal::new("syntax", error.location, error.message))?;
    if callers {
        let mut count = 0;
        for token in &tokens {
            if !matches!(token.token, Token::Whitespace(_)) {
                count += 1;
            }
            check_token(&token.token).map_err(|(rule, detail)| Refusal::new(rule, token.span.start, detail))?;
            if count > MAX_TOKENS {
                let detail = format!("a statement has at most {MAX_TOKENS} words and signs");
                return Err(Refusal::new("too_long", token.span.start, detail));
            }
        }
    }
    Parser::new(&dialect).with_recursion_limit(MAX_DEPTH).with_tokens_with_locations(tokens).parse_statements().map_err(
        |error| match error {
            sqlparser::parser::ParserError::RecursionLimitExceeded => {
                Refusal::new("too_deep", Location::empty(), format!("it is nested deeper than {MAX_DEPTH} levels"))
            }
            error => {
                let text = error.to_string();
                let text = text.strip_prefix("sql parser error: ").unwrap_or(&text);
                Refusal::new("syntax", Location::empty(), text.to_owned())
            }
        },
    )
}

/// Refuses the forms of strings, names and characters that parsers read differently.
fn check_token(token: &Token) -> Result<(), (&'static str, String)> {
    let string_form = |what: &str| Err(("string_form", format!("{what} are not read here: write 'text' or use $1")));
    match token {
        Token::Word(word) => match word.quote_style {
            None | Some('"') if word.value.len() > MAX_NAME_BYTES => {
                Err(("name", format!("a name has at most {MAX_NAME_BYTES} bytes")))
            }
            None => Ok(()),
            Some('"') if word.value.chars().any(|c| c == '"' || c == '\'' || c == '\\' || c.is_control()) => {
                Err(("name", "a quoted name has no quotes, backslashes or control characters".to_owned()))
            }
            Some('"') if word.value.is_empty() => Err(("name", "a name is not empty".to_owned())),
            Some('"') => Ok(()),
            Some(_) => Err(("name", "names are quoted with \" only".to_owned())),
        },
        Token::Number(_, false) => Ok(()),
        Token::SingleQuotedString(text) if text.contains('\0') => string_form("strings with a zero byte"),
        Token::SingleQuotedString(_) => Ok(()),
        Token::Placeholder(name) if placeholder(name).is_some() => Ok(()),
        Token::Placeholder(_) => Err(("placeholder", "parameters are written $1, $2, …".to_owned())),
        Token::DollarQuotedString(_) => string_form("$$ strings"),
        Token::EscapedStringLiteral(_) => string_form("E'' strings"),
        Token::UnicodeStringLiteral(_) => string_form("U&'' strings"),
        Token::NationalStringLiteral(_) => string_form("N'' strings"),
        Token::HexStringLiteral(_) => string_form("X'' strings"),
        Token::SingleQuotedByteStringLiteral(_) => string_form("B'' strings"),
        Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => Ok(()),
        Token::Whitespace(_) | Token::EOF | Token::SemiColon => Ok(()),
        Token::Char(c) => Err(("syntax", format!("unexpected character {c:?}"))),
        Token::DoubleQuotedString(_)
        | Token::TripleSingleQuotedString(_)
        | Token::TripleDoubleQuotedString(_)
        | Token::DoubleQuotedByteStringLiteral(_)
        | Token::TripleSingleQuotedByteStringLiteral(_)
        | Token::TripleDoubleQuotedByteStringLiteral(_)
        | Token::SingleQuotedRawStringLiteral(_)
        | Token::DoubleQuotedRawStringLiteral(_)
        | Token::TripleSingleQuotedRawStringLiteral(_)
        | Token::TripleDoubleQuotedRawStringLiteral(_)
        | Token::QuoteDelimitedStringLiteral(_)
        | Token::NationalQuoteDelimitedStringLiteral(_) => string_form("such strings"),
        // Signs: whether they are allowed where they stand is judged on the tree.
        _ => Ok(()),
    }
}

/// `$7` → 7.
fn placeholder(name: &str) -> Option<usize> {
    name.strip_prefix('$').and_then(|digits| digits.parse().ok()).filter(|number| (1..=1000).contains(number))
}

/// Puts every string that holds a quote or a backslash between `$k$` signs: the two parsers agree on those, however
/// the server's `standard_conforming_strings` is set.
struct Requote;

impl VisitorMut for Requote {
    type Break = Refusal;

    fn pre_visit_value(&mut self, value: &mut sqlparser::ast::ValueWithSpan) -> ControlFlow<Refusal> {
        if let Value::SingleQuotedString(text) = &value.value
            && text.contains(['\'', '\\'])
        {
            if text.contains("$k$") || text.ends_with('$') {
                let detail = "this string can't be quoted safely: use a parameter, $1";
                return ControlFlow::Break(Refusal::new("string_form", value.span.start, detail));
            }
            let quoted = sqlparser::ast::DollarQuotedString { value: text.clone(), tag: Some("k".to_owned()) };
            value.value = Value::DollarQuotedString(quoted);
        }
        ControlFlow::Continue(())
    }
}
