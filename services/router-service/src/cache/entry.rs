//! A kept answer: what it was, for which requests it is, and its form in Redis.

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::freshness::{Times, has_validator};

/// `Cache-Tags: robots, robot-7`: by what an answer can be purged. Not passed on.
pub const CACHE_TAGS: HeaderName = HeaderName::from_static("cache-tags");
/// Tags of one answer; more are not looked at.
const MOST_TAGS: usize = 64;

/// An answer; a clone shares the body.
#[derive(Debug, Clone)]
pub struct Entry {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The headers of the request that it depends on, with the values for which it is.
    pub vary: Vec<(HeaderName, Option<String>)>,
    pub tags: Vec<String>,
    /// The number of purges before it was asked for.
    pub generation: i64,
    /// In seconds of Unix time: when it was of age zero.
    pub born: u64,
    pub times: Times,
}

/// The request's headers that an answer depends on, and their values.
pub fn vary(answer: &HeaderMap, request: &HeaderMap) -> Vec<(HeaderName, Option<String>)> {
    let names = answer.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    let names = names.flat_map(|names| names.split(',')).filter_map(|name| HeaderName::try_from(name.trim()).ok());
    let mut vary: Vec<_> = names.map(|name| (name.clone(), value_of(request, &name))).collect();
    vary.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    vary.dedup();
    vary
}

fn value_of(request: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> =
        request.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// The tags that an answer names.
pub fn tags(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CACHE_TAGS).iter().filter_map(|value| value.to_str().ok());
    let tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.filter(|tag| (1..=128).contains(&tag.len())).take(MOST_TAGS).map(str::to_owned).collect()
}

impl Entry {
    /// Whether it is for a request with these headers (RFC 9111 section 4.1).
    pub fn suits(&self, request: &HeaderMap) -> bool {
        self.vary.iter().all(|(name, value)| value_of(request, name) == *value)
    }

    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.born)
    }

    pub fn is_fresh(&self, now: u64) -> bool {
        self.age(now) < self.times.fresh
    }

    /// May be given while a new one is fetched.
    pub fn may_wait(&self, now: u64) -> bool {
        self.age(now) < self.times.fresh + self.times.while_revalidate
    }

    /// May be given when the upstream fails.
    pub fn may_replace_an_error(&self, now: u64) -> bool {
        self.age(now) < self.times.fresh + self.times.if_error
    }

    /// Seconds until it is of no use.
    pub fn left(&self, now: u64) -> u64 {
        self.times.end(has_validator(&self.headers)).saturating_sub(self.age(now))
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> u32 {
        let headers: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        u32::try_from(512 + headers + self.body.len()).unwrap_or(u32::MAX)
    }

    /// Names what would be another answer: the values of the headers that it depends on.
    pub fn variant(names: &[HeaderName], request: &HeaderMap) -> String {
        let values = names.iter().map(|name| format!("{name}={}", value_of(request, name).unwrap_or_default()));
        values.collect::<Vec<_>>().join("\n")
    }

    /// Its form in Redis: a line of JSON, then the body.
    ///
    /// # Errors
    /// A header that is not text.
    pub fn write(&self) -> anyhow::Result<Vec<u8>> {
        let lines = self.headers.iter();
        let headers = lines.map(|(name, value)| Ok((name.to_string(), value.to_str()?.to_owned())));
        let head = Head {
            status: self.status.as_u16(),
            headers: headers.collect::<anyhow::Result<_>>()?,
            vary: self.vary.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
            tags: self.tags.clone(),
            generation: self.generation,
            born: self.born,
            times: (self.times.fresh, self.times.while_revalidate, self.times.if_error),
        };
        let mut out = serde_json::to_vec(&head)?;
        out.push(b'\n');
        out.extend_from_slice(&self.body);
        Ok(out)
    }

    /// Reads what [`Entry::write`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn read(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let bytes = Bytes::from(bytes);
        let end = memchr::memchr(b'\n', &bytes).context("there is no head")?;
        let head: Head = serde_json::from_slice(&bytes[..end])?;
        let mut headers = HeaderMap::new();
        for (name, value) in head.headers {
            headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        let vary = head.vary.into_iter().map(|(name, value)| Ok((HeaderName::try_from(name)?, value)));
        let (fresh, while_revalidate, if_error) = head.times;
        Ok(Self {
            status: StatusCode::from_u16(head.status)?,
            headers,
            body: bytes.slice(end + 1..),
            vary: vary.collect::<anyhow::Result<_>>()?,
            tags: head.tags,
            generation: head.generation,
            born: head.born,
            times: Times { fresh, while_revalidate, if_error },
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    vary: Vec<(String, Option<String>)>,
    tags: Vec<String>,
    generation: i64,
    born: u64,
    times: (u64, u64, u64),
}
