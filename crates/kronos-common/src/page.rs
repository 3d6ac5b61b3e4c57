//! Seek pagination: `?limit=&cursor=` → `{"items", "nextCursor"}`. A cursor is the position after the last item of a page,
//! opaque to the caller; a store finds the next page by `where (…) > (…)`, never by counting rows.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Problem, Result};

/// Longest cursor that is read, in bytes.
const LONGEST_CURSOR: usize = 2048;

/// How many items a page has: 1 to 200, 50 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u32", into = "u32")]
#[schema(value_type = u32, minimum = 1, maximum = 200, default = 50)]
pub struct Limit(u32);

impl Limit {
    /// The largest page.
    pub const MAX: u32 = 200;

    /// How many rows a store asks for: one more than the page has, which tells whether another page follows.
    pub fn fetch(self) -> i64 {
        i64::from(self.0) + 1
    }

    /// The number of items.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u32> for Limit {
    type Error = &'static str;

    fn try_from(limit: u32) -> std::result::Result<Self, Self::Error> {
        if (1..=Self::MAX).contains(&limit) { Ok(Self(limit)) } else { Err("limit is 1 to 200") }
    }
}

impl From<Limit> for u32 {
    fn from(limit: Limit) -> Self {
        limit.0
    }
}

/// The query of a list that has no filters. One that has some repeats the two fields: `serde(flatten)` cannot read numbers
/// from a query.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many items.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    pub limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    pub cursor: Option<Cursor>,
}

/// A position in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor of `position`: the sort key of the last item, complete enough to be unique.
    pub fn encode<K: Serialize>(position: &K) -> Self {
        Self(URL_SAFE_NO_PAD.encode(serde_json::to_vec(position).expect("a sort key serialises")))
    }

    /// The position.
    ///
    /// # Errors
    /// 400 `invalid_cursor`: not one of this list's cursors.
    pub fn decode<K: DeserializeOwned>(&self) -> Result<K> {
        let invalid = || Problem::bad_request("invalid_cursor", "cursor is not a nextCursor of this list");
        if self.0.len() > LONGEST_CURSOR {
            return Err(invalid());
        }
        let bytes = URL_SAFE_NO_PAD.decode(&self.0).map_err(|_| invalid())?;
        serde_json::from_slice(&bytes).map_err(|_| invalid())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// Where the next page begins; null on the last one.
    #[schema(value_type = Option<String>)]
    pub next_cursor: Option<Cursor>,
}

impl<T> Page<T> {
    /// Makes a page of the [`Limit::fetch`] rows that a store found; `position` is an item's sort key.
    pub fn new<K: Serialize>(mut rows: Vec<T>, limit: Limit, position: impl FnOnce(&T) -> K) -> Self {
        let more = rows.len() > limit.get();
        rows.truncate(limit.get());
        let next_cursor = rows.last().filter(|_| more).map(|last| Cursor::encode(&position(last)));
        Self { items: rows, next_cursor }
    }

    /// The same page of other items, such as wire types of rows.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(convert).collect(), next_cursor: self.next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_page_has_no_cursor() {
        let limit = Limit::try_from(2).expect("valid");
        let page = Page::new(vec![1, 2, 3], limit, |item| *item);
        assert_eq!(page.items, [1, 2]);
        assert_eq!(page.next_cursor.expect("more follows").decode::<i32>().expect("own"), 2);
        assert_eq!(Page::new(vec![3, 4], limit, |item| *item).next_cursor, None);
        assert_eq!(Page::new(Vec::<i32>::new(), limit, |item| *item).next_cursor, None);
    }

    #[test]
    fn a_limit_outside_its_bounds_is_refused() {
        for (query, valid) in [
            ("limit=1", true),
            ("limit=200", true),
            ("", true),
            ("limit=0", false),
            ("limit=201", false),
            ("limit=-1", false),
            ("limits=1", false),
        ] {
            let uri = format!("http://x/?{query}").parse().expect("URI");
            let read = axum::extract::Query::<PageQuery>::try_from_uri(&uri);
            assert_eq!(read.is_ok(), valid, "{query}");
        }
    }

    #[test]
    fn a_foreign_cursor_is_a_bad_request() {
        for bad in ["", "%", "AAAA", &"A".repeat(5000), &URL_SAFE_NO_PAD.encode("[1]")] {
            let problem = Cursor(bad.to_owned()).decode::<(String, i64)>().expect_err("foreign");
            assert_eq!((problem.status().as_u16(), problem.code()), (400, "invalid_cursor"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_back_and_needs_no_escape(name in any::<String>(), id: u64) {
            let cursor = Cursor::encode(&(name.clone(), id));
            prop_assert!(cursor.to_string().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            prop_assert_eq!(cursor.decode::<(String, u64)>().expect("own"), (name, id));
        }

        #[test]
        fn following_the_cursors_visits_every_item_once(count in 0..60_i32, limit in 1..12_u32) {
            let limit = Limit::try_from(limit).expect("valid");
            let (mut seen, mut after) = (Vec::new(), 0);
            loop {
                let rows = (1..=count).filter(|item| *item > after).take(usize::try_from(limit.fetch()).expect("small")).collect();
                let page = Page::new(rows, limit, |item| *item);
                seen.extend(page.items);
                match page.next_cursor {
                    Some(cursor) => after = cursor.decode().expect("own"),
                    None => break,
                }
            }
            prop_assert_eq!(seen, (1..=count).collect::<Vec<_>>());
        }
    }
}
