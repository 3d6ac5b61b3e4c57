//! A small rule engine for requests that look like attacks: each rule that matches adds its score, and a request whose score
//! reaches the threshold is refused, or only counted while the rules are being tried. Expressions run in linear time.

use http::{HeaderMap, HeaderName, Method};
use kronos_common::problem::FieldError;
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::route;

/// Rules of one route.
const MOST_RULES: usize = 32;
/// Bytes that one compiled expression may take.
const EXPRESSION_BYTES: usize = 1 << 18;
const LONGEST_EXPRESSION: usize = 1000;

/// What a route refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// Default: `block`.
    #[serde(default)]
    pub mode: Mode,
    /// The sum of scores from which a request is refused. Default: 10.
    #[serde(default = "ten")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub threshold: u32,
    /// Rules that come with the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 4)]
    pub presets: Vec<Preset>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub rules: Vec<Rule>,
    /// How much of a body is looked at, in bytes, if a rule looks at bodies. Default: 8192.
    #[serde(default = "eight_kibibytes")]
    #[schema(minimum = 1, maximum = 1_048_576)]
    pub inspect_body_bytes: u32,
}

fn ten() -> u32 {
    10
}

fn eight_kibibytes() -> u32 {
    8192
}

/// What becomes of a request that reaches the threshold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// 403 `request_filtered`.
    #[default]
    Block,
    /// It passes; it is counted and logged.
    Monitor,
}

/// Rules of score 10 for what no honest client sends to an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Preset {
    /// SQL that ends one statement and begins another, or is always true.
    Sql,
    /// Scripts in values.
    Script,
    /// Paths that climb.
    Traversal,
    /// Look-ups and commands that a server's library would carry out.
    Command,
}

/// A rule matches if everything that it names does; it names at least one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    #[schema(min_length = 1, max_length = 63)]
    pub name: String,
    #[schema(minimum = 1, maximum = 10_000)]
    pub score: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<route::Method>>,
    /// An expression for the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub path: Option<String>,
    /// An expression for the query, its escapes undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub query: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderPattern>,
    /// An expression for the beginning of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub body: Option<String>,
    /// An expression for any of path, query, header values and body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub any: Option<String>,
}

/// A header whose value an expression matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderPattern {
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    #[schema(max_length = 1000)]
    pub pattern: String,
}

#[derive(Debug)]
struct CompiledRule {
    name: Box<str>,
    score: u32,
    methods: Option<Vec<route::Method>>,
    path: Option<Regex>,
    query: Option<Regex>,
    header: Option<(HeaderName, Regex)>,
    body: Option<Regex>,
    any: Option<Regex>,
}

/// The same, ready to use.
#[derive(Debug)]
pub struct Compiled {
    pub mode: Mode,
    pub threshold: u32,
    rules: Vec<CompiledRule>,
    /// How much of a body is looked at; zero: nothing.
    pub body_bytes: usize,
}

impl Preset {
    fn rule(self) -> Rule {
        let (name, any) = match self {
            Self::Sql => (
                "preset-sql",
                r"(?i)\bunion\b.{1,40}\bselect\b|['\x22;]\s*(?:or|and)\b\s*['\x22(\d]|;\s*(?:drop|alter|truncate)\s+table\b|\b(?:pg_)?sleep\s*\(\s*\d",
            ),
            Self::Script => ("preset-script", r"(?i)<\s*/?script\b|\bjavascript\s*:|<[^>]{1,200}\bon[a-z]{3,20}\s*="),
            Self::Traversal => {
                ("preset-traversal", r"(?i)(?:^|[/\\=])\.\.[/\\]|%2e%2e(?:%2f|%5c)|/etc/(?:passwd|shadow)\b")
            }
            Self::Command => (
                "preset-command",
                r"(?i)\$\{\s*(?:jndi|env|sys|lower|upper)\s*:|[;|&`]\s*(?:cat|curl|wget|bash|sh|nc)\s+\S",
            ),
        };
        Rule {
            name: name.to_owned(),
            score: 10,
            methods: None,
            path: None,
            query: None,
            header: None,
            body: None,
            any: Some(any.to_owned()),
        }
    }
}

impl Filter {
    pub(super) fn check(&self, errors: &mut Vec<FieldError>) {
        let mut wrong = |pointer: &str, code, detail: String| {
            errors.push(FieldError::new(format!("/filter{pointer}"), code, detail));
        };
        if !(1..=10_000).contains(&self.threshold) {
            wrong("/threshold", "out_of_range", "from 1 to 10000".to_owned());
        }
        if !(1..=1 << 20).contains(&self.inspect_body_bytes) {
            wrong("/inspectBodyBytes", "out_of_range", "from 1 to 1048576".to_owned());
        }
        if self.rules.len() > MOST_RULES {
            wrong("/rules", "too_many", format!("at most {MOST_RULES}"));
        }
        if self.rules.is_empty() && self.presets.is_empty() {
            wrong("", "invalid", "name a rule or a preset".to_owned());
        }
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.name.is_empty() || rule.name.len() > 63 || !rule.name.bytes().all(|byte| byte.is_ascii_graphic()) {
                wrong(&format!("/rules/{index}/name"), "invalid", "1 to 63 visible characters".to_owned());
            }
            if !(1..=10_000).contains(&rule.score) {
                wrong(&format!("/rules/{index}/score"), "out_of_range", "from 1 to 10000".to_owned());
            }
            if rule.methods.is_none() && rule.expressions().all(|(_, text)| text.is_none()) {
                let detail = "name at least one of methods, path, query, header, body and any";
                wrong(&format!("/rules/{index}"), "invalid", detail.to_owned());
            }
            if rule.header.as_ref().is_some_and(|header| HeaderName::try_from(&header.name).is_err()) {
                wrong(&format!("/rules/{index}/header/name"), "invalid", "this is no header's name".to_owned());
            }
            for (field, text) in rule.expressions() {
                if let Some(Err(detail)) = text.map(expression) {
                    wrong(&format!("/rules/{index}/{field}"), "invalid_expression", detail);
                }
            }
        }
    }

    pub(super) fn compile(&self) -> Result<Compiled, String> {
        let presets = self.presets.iter().map(|preset| preset.rule());
        let rules: Vec<CompiledRule> =
            self.rules.iter().cloned().chain(presets).map(|rule| rule.compile()).collect::<Result<_, String>>()?;
        let looks = rules.iter().any(|rule| rule.body.is_some() || rule.any.is_some());
        let body_bytes = if looks { self.inspect_body_bytes as usize } else { 0 };
        Ok(Compiled { mode: self.mode, threshold: self.threshold, rules, body_bytes })
    }
}

impl Rule {
    fn expressions(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        [
            ("path", self.path.as_deref()),
            ("query", self.query.as_deref()),
            ("header/pattern", self.header.as_ref().map(|header| header.pattern.as_str())),
            ("body", self.body.as_deref()),
            ("any", self.any.as_deref()),
        ]
        .into_iter()
    }

    fn compile(self) -> Result<CompiledRule, String> {
        let compiled = |text: Option<&String>| text.map(|text| expression(text)).transpose();
        let header = self.header.as_ref().map(|header| {
            let name = HeaderName::try_from(&header.name).map_err(|error| error.to_string())?;
            Ok::<_, String>((name, expression(&header.pattern)?))
        });
        Ok(CompiledRule {
            path: compiled(self.path.as_ref())?,
            query: compiled(self.query.as_ref())?,
            header: header.transpose()?,
            body: compiled(self.body.as_ref())?,
            any: compiled(self.any.as_ref())?,
            name: self.name.into(),
            score: self.score,
            methods: self.methods,
        })
    }
}

fn expression(text: &str) -> Result<Regex, String> {
    if text.is_empty() || text.len() > LONGEST_EXPRESSION {
        return Err(format!("an expression has 1 to {LONGEST_EXPRESSION} characters"));
    }
    RegexBuilder::new(text).size_limit(EXPRESSION_BYTES).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the expression is too large".to_owned(),
        error => error.to_string(),
    })
}

/// A request as rules look at it.
#[derive(Debug)]
pub struct Looked<'a> {
    pub method: &'a Method,
    /// In normal form.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// Its beginning.
    pub body: &'a [u8],
}

/// What rules say of a request.
#[derive(Debug, Default)]
pub struct Finding<'a> {
    pub score: u32,
    pub rules: Vec<&'a str>,
}

impl Compiled {
    pub fn look(&self, looked: &Looked<'_>) -> Finding<'_> {
        let query = looked.query.map(unescaped).unwrap_or_default();
        let path = unescaped(looked.path);
        let mut finding = Finding::default();
        for rule in &self.rules {
            if rule.matches(looked, &path, &query) {
                finding.score = finding.score.saturating_add(rule.score);
                finding.rules.push(&rule.name);
            }
        }
        finding
    }
}

impl CompiledRule {
    fn matches(&self, looked: &Looked<'_>, path: &[u8], query: &[u8]) -> bool {
        let takes =
            |expression: &Option<Regex>, text: &[u8]| expression.as_ref().is_none_or(|known| known.is_match(text));
        self.methods.as_ref().is_none_or(|known| known.iter().any(|known| known.as_str() == looked.method.as_str()))
            && takes(&self.path, path)
            && takes(&self.query, query)
            && self.header.as_ref().is_none_or(|(name, known)| {
                looked.headers.get_all(name).iter().any(|value| known.is_match(value.as_bytes()))
            })
            && takes(&self.body, looked.body)
            && self.any.as_ref().is_none_or(|known| {
                known.is_match(path)
                    || known.is_match(query)
                    || known.is_match(looked.body)
                    || looked.headers.values().any(|value| known.is_match(value.as_bytes()))
            })
    }
}

/// Undoes `+` and `%41`; what is no escape stays.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                at += 2;
            }
            (b'+', _, _) => plain.push(b' '),
            (byte, _, _) => plain.push(byte),
        }
        at += 1;
    }
    plain
}
