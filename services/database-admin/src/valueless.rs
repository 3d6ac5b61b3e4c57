//! The text of a statement without the values in it, for those who may see how long it took and not what it was about.

use sqlparser::{
    dialect::PostgreSqlDialect,
    tokenizer::{Token, Tokenizer},
};

/// What stands where a value stood.
const VALUE: &str = "?";

/// The statement's words, parameters and punctuation; `?` for each value, one space for white space and
/// comments. A text that is no SQL, or was cut in the middle of a value, is `?` as a whole.
///
/// `pg_stat_statements` does this too, but not for utility statements, nor for a statement whose entry was evicted while
/// it ran (PostgreSQL's documentation, F.32).
pub(crate) fn valueless(statement: &str) -> String {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, statement).tokenize() else {
        return VALUE.to_owned();
    };
    let mut shown = String::with_capacity(statement.len());
    for token in tokens {
        match token {
            Token::Word(_) | Token::Placeholder(_) => shown.push_str(&token.to_string()),
            Token::Whitespace(_) if shown.ends_with(' ') => {}
            Token::Whitespace(_) => shown.push(' '),
            // A list of what is a value would miss those that a later tokenizer adds.
            other => {
                let text = other.to_string();
                let punctuation = !text.contains(|c: char| c.is_alphanumeric() || matches!(c, '\'' | '"' | '$'));
                shown.push_str(if punctuation { &text } else { VALUE });
            }
        }
    }
    shown
}
