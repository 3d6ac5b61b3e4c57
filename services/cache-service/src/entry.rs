//! What may be cached and for how long: names, tags and lifetimes. The rules are in the types; no HTTP and no Redis here.

use std::time::Duration;

use anyhow::ensure;
use serde::Deserialize;
use thiserror::Error;

/// Longest namespace, in bytes.
pub const LONGEST_NAMESPACE: usize = 64;
/// Longest key, in bytes after percent-decoding.
pub const LONGEST_KEY: usize = 512;
/// Longest tag, in bytes.
pub const LONGEST_TAG: usize = 128;
/// Most tags of one value.
pub const MOST_TAGS: usize = 16;
/// Longest media type of a value, in bytes.
pub const LONGEST_MEDIA_TYPE: usize = 255;
/// No setting lets a value live longer, because the versions of tags are kept for a day more than this.
pub const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why a name or a lifetime is not taken; the text says what is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("a namespace is 1 to {LONGEST_NAMESPACE} of a-z, 0-9, '.', '_', '-', and begins with a letter or digit")]
    Namespace,
    #[error("a key is 1 to {LONGEST_KEY} bytes long")]
    Key,
    #[error("a tag is 1 to {LONGEST_TAG} of a-z, A-Z, 0-9, '.', '_', '-', ':', '/', '@'")]
    Tag,
    #[error("a value has at most {MOST_TAGS} tags")]
    TooManyTags,
    #[error("ttl is 1 to {} seconds", .longest.as_secs())]
    Lifetime { longest: Duration },
}

/// Keeps the keys of one purpose together, and apart from all others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Namespace(String);

impl TryFrom<String> for Namespace {
    type Error = Refused;

    fn try_from(text: String) -> Result<Self, Refused> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = (1..=LONGEST_NAMESPACE).contains(&text.len())
            && plain(text.as_bytes()[0])
            && text.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'));
        if good { Ok(Self(text)) } else { Err(Refused::Namespace) }
    }
}

impl Namespace {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Any text; in a path it is percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Key(String);

impl TryFrom<String> for Key {
    type Error = Refused;

    fn try_from(text: String) -> Result<Self, Refused> {
        if (1..=LONGEST_KEY).contains(&text.len()) { Ok(Self(text)) } else { Err(Refused::Key) }
    }
}

impl Key {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name that many values share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Tag(String);

impl TryFrom<String> for Tag {
    type Error = Refused;

    fn try_from(text: String) -> Result<Self, Refused> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@".contains(&byte);
        if (1..=LONGEST_TAG).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text))
        } else {
            Err(Refused::Tag)
        }
    }
}

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value's tags: different ones, in order of appearance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Vec<Tag>);

impl Tags {
    /// Reads header values such as `robot:R-42, firmware`.
    ///
    /// # Errors
    /// A tag that is none, or too many.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, Refused> {
        let mut tags = Vec::new();
        let words = values.into_iter().flat_map(|value| value.split(',')).map(str::trim);
        for word in words.filter(|word| !word.is_empty()) {
            let tag = Tag::try_from(word.to_owned())?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
            if tags.len() > MOST_TAGS {
                return Err(Refused::TooManyTags);
            }
        }
        Ok(Self(tags))
    }

    /// As they are stored: with commas between; empty without tags.
    pub fn joined(&self) -> String {
        self.0.iter().map(Tag::as_str).collect::<Vec<_>>().join(",")
    }
}

/// How long values may live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    default: Duration,
    longest: Duration,
}

impl Lifetimes {
    /// # Errors
    /// Settings that contradict each other.
    pub fn new(default_seconds: u64, longest_seconds: u64) -> anyhow::Result<Self> {
        let (default, longest) = (Duration::from_secs(default_seconds), Duration::from_secs(longest_seconds));
        ensure!(longest <= LONGEST_LIFE, "configuration key `cache.max_ttl_seconds` is more than 30 days");
        ensure!(
            default_seconds >= 1 && default <= longest,
            "configuration key `cache.default_ttl_seconds` is not between 1 and `cache.max_ttl_seconds`"
        );
        Ok(Self { default, longest })
    }

    /// The life of a value for which `wanted` seconds were asked.
    ///
    /// # Errors
    /// Zero, or more than the longest.
    pub fn choose(&self, wanted: Option<u64>) -> Result<Duration, Refused> {
        let life = wanted.map_or(self.default, Duration::from_secs);
        if wanted == Some(0) || life > self.longest {
            Err(Refused::Lifetime { longest: self.longest })
        } else {
            Ok(life)
        }
    }
}
