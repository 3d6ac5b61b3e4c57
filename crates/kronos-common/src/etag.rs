//! Entity tags and the conditions on them (RFC 9110 §8.8.3, §13.1): an answer says which version it is, an update says
//! which version it changes, and a lost race is a 412 instead of a lost change.

use std::{convert::Infallible, fmt};

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use sha2::{Digest as _, Sha256};

use crate::problem::{Problem, Result};

/// A strong entity tag, quotes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag(String);

impl ETag {
    /// The tag of a row's version number.
    pub fn of_version(version: i64) -> Self {
        Self(format!("\"v{version}\""))
    }

    /// The tag of a document's bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(format!("\"{}\"", hex::encode(&Sha256::digest(bytes)[..16])))
    }

    /// A tag that was stored as text, with its quotes; `None` if it is no strong tag.
    pub fn parse(text: &str) -> Option<Self> {
        let opaque = text.strip_prefix('"')?.strip_suffix('"')?;
        let plain = opaque.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        plain.then(|| Self(text.to_owned()))
    }

    /// As it stands in the header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sets the header `ETag`.
impl IntoResponseParts for ETag {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> std::result::Result<ResponseParts, Infallible> {
        let value = HeaderValue::try_from(self.0).expect("a tag is visible ASCII");
        response.headers_mut().insert(header::ETAG, value);
        Ok(response)
    }
}

/// The header `If-Match`, if there is one. 400 `invalid_condition` if it is malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfMatch(Option<Condition>);

/// The header `If-None-Match`, if there is one. 400 `invalid_condition` if it is malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfNoneMatch(Option<Condition>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Any,
    /// Tags with their quotes; weak ones with their `W/`.
    Tags(Vec<String>),
}

impl IfMatch {
    /// Whether the caller named a version at all.
    pub fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Passes if the caller named no version, any, or this one.
    ///
    /// # Errors
    /// 412 `precondition_failed`: the caller saw another version.
    pub fn check(&self, current: &ETag) -> Result<()> {
        match &self.0 {
            None | Some(Condition::Any) => Ok(()),
            // Strong comparison: a weak tag equals nothing.
            Some(Condition::Tags(tags)) if tags.contains(&current.0) => Ok(()),
            Some(Condition::Tags(_)) => Err(Problem::precondition_failed()),
        }
    }
}

impl IfNoneMatch {
    /// Whether the caller named a version at all.
    pub fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// The answer to a GET whose caller has this version already: 304.
    pub fn not_modified(&self, current: &ETag) -> Option<Response> {
        let has = match &self.0 {
            None => false,
            Some(Condition::Any) => true,
            Some(Condition::Tags(tags)) => tags.iter().any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == current.0),
        };
        has.then(|| (StatusCode::NOT_MODIFIED, current.clone(), ()).into_response())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        condition(parts, &header::IF_MATCH).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        condition(parts, &header::IF_NONE_MATCH).map(Self)
    }
}

fn condition(parts: &Parts, name: &HeaderName) -> Result<Option<Condition>> {
    let mut tags = Vec::new();
    let mut present = false;
    for value in parts.headers.get_all(name) {
        present = true;
        let malformed = || Problem::bad_request("invalid_condition", format!("{name} is `*` or a list of quoted tags"));
        let text = value.to_str().map_err(|_| malformed())?.trim();
        if text == "*" {
            return Ok(Some(Condition::Any));
        }
        tags.extend(parse(text).ok_or_else(malformed)?);
    }
    Ok(present.then_some(Condition::Tags(tags)))
}

/// `W/"a", "b"`; a tag may hold commas.
fn parse(mut text: &str) -> Option<Vec<String>> {
    let mut tags = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return (!tags.is_empty()).then_some(tags);
        }
        let weak = if text.starts_with("W/") { 2 } else { 0 };
        let opaque = text[weak..].strip_prefix('"')?;
        let length = opaque.find('"')?;
        if opaque[..length].contains(|character: char| character.is_ascii_whitespace()) {
            return None;
        }
        let (tag, rest) = text.split_at(weak + length + 2);
        tags.push(tag.to_owned());
        text = rest.trim_start();
        if !text.is_empty() && !text.starts_with(',') {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_of_tags_is_read() {
        for (text, tags) in [
            ("\"v1\"", Some(vec!["\"v1\""])),
            ("\"v1\", W/\"v2\"", Some(vec!["\"v1\"", "W/\"v2\""])),
            ("\"a,b\",\"\"", Some(vec!["\"a,b\"", "\"\""])),
            ("v1", None),
            ("\"v1", None),
            ("\"v1\"x", None),
            ("\"v 1\"", None),
            ("", None),
            (",", None),
        ] {
            let expected = tags.map(|tags| tags.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn only_the_version_that_was_seen_may_be_changed() {
        let current = ETag::of_version(3);
        let tags = |tags: &[&str]| IfMatch(Some(Condition::Tags(tags.iter().map(|tag| (*tag).to_owned()).collect())));
        assert!(IfMatch(None).check(&current).is_ok());
        assert!(IfMatch(Some(Condition::Any)).check(&current).is_ok());
        assert!(tags(&["\"v2\"", "\"v3\""]).check(&current).is_ok());
        for stale in [tags(&["\"v2\""]), tags(&["W/\"v3\""])] {
            assert_eq!(stale.check(&current).expect_err("stale").status(), StatusCode::PRECONDITION_FAILED);
        }
    }

    #[test]
    fn a_known_version_is_not_sent_again() {
        let current = ETag::of_bytes(b"robot");
        let weak = IfNoneMatch(Some(Condition::Tags(vec![format!("W/{current}")])));
        let answer = weak.not_modified(&current).expect("known");
        assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(answer.headers()[header::ETAG], current.as_str());
        assert!(IfNoneMatch(None).not_modified(&current).is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn own_tags_are_read_back(versions in proptest::collection::vec(any::<i64>(), 1..5)) {
            let tags: Vec<String> = versions.iter().map(|version| ETag::of_version(*version).0).collect();
            prop_assert_eq!(parse(&tags.join(", ")), Some(tags));
        }
    }
}
