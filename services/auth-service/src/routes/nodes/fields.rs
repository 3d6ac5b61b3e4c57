//! The fields of nodes' bodies, with their limits.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use serde::Deserialize;
use utoipa::ToSchema;

/// A month.
const LONGEST_LIFE_SECONDS: u32 = 2_592_000;
const MOST_ATTRIBUTES: usize = 32;

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 100)]
pub(in crate::routes) struct NodeName(pub(in crate::routes) String);

impl TryFrom<String> for NodeName {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let good = (1..=100).contains(&text.chars().count()) && !text.contains(char::is_control);
        if good && text.trim() == text { Ok(Self(text)) } else { Err("1 to 100 characters, no blanks around") }
    }
}

/// Texts by names, such as the serial number.
#[derive(Deserialize, ToSchema)]
#[serde(try_from = "BTreeMap<String, String>")]
#[schema(value_type = BTreeMap<String, String>)]
pub(in crate::routes) struct NodeAttributes(pub(in crate::routes) BTreeMap<String, String>);

impl TryFrom<BTreeMap<String, String>> for NodeAttributes {
    type Error = &'static str;

    fn try_from(map: BTreeMap<String, String>) -> std::result::Result<Self, Self::Error> {
        let good = map.len() <= MOST_ATTRIBUTES
            && map.iter().all(|(name, value)| {
                (1..=64).contains(&name.len()) && value.len() <= 512 && !name.contains('\0') && !value.contains('\0')
            });
        if good { Ok(Self(map)) } else { Err("at most 32 texts of 512 bytes, under names of 64") }
    }
}

/// Seconds, at most a month.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(try_from = "u32")]
#[schema(value_type = u32, minimum = 0, maximum = 2592000)]
pub(in crate::routes) struct Seconds(pub(in crate::routes) u32);

impl TryFrom<u32> for Seconds {
    type Error = &'static str;

    fn try_from(seconds: u32) -> std::result::Result<Self, Self::Error> {
        if seconds <= LONGEST_LIFE_SECONDS { Ok(Self(seconds)) } else { Err("at most 2592000") }
    }
}

impl From<Seconds> for TimeDelta {
    fn from(seconds: Seconds) -> Self {
        Self::seconds(i64::from(seconds.0))
    }
}

/// An Ed25519 signature, base64url.
#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 128)]
pub(in crate::routes) struct Signature(pub(in crate::routes) String);

impl TryFrom<String> for Signature {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if (1..=128).contains(&text.chars().count()) { Ok(Self(text)) } else { Err("1 to 128 characters") }
    }
}
