//! One time-ordered answer out of several: the order, the place where the next page begins, and what is the same line. No I/O.

use std::{cmp::Ordering, collections::HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{line::Line, store::Order};

/// The name of our own lines as a source.
pub const OWN: &str = "kronos";

/// A line and who gave it.
#[derive(Debug, Clone)]
pub struct Found {
    pub source: String,
    pub line: Line,
}

/// The place of a line in the order of an answer: time, then our own before others, then seq or id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Microseconds since 1970.
    pub micros: i64,
    pub source: String,
    /// Orders our own lines.
    pub seq: i64,
    /// Orders those of others.
    pub id: String,
    pub oldest_first: bool,
}

impl Position {
    /// The place of this line.
    pub fn of(found: &Found, order: Order) -> Self {
        Self {
            micros: found.line.occurred_at.timestamp_micros(),
            source: found.source.clone(),
            seq: found.line.seq,
            id: found.line.id.clone(),
            oldest_first: order == Order::Oldest,
        }
    }

    /// The time of the place.
    pub fn time(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.micros)
    }

    /// Whether the place is one of our own lines, so that more of ours may follow at the same time.
    pub fn is_own(&self) -> bool {
        self.source == OWN
    }

    fn compare(&self, other: &Self, order: Order) -> Ordering {
        let in_time = self.micros.cmp(&other.micros);
        let in_seq = self.seq.cmp(&other.seq);
        let (in_time, in_seq) = match order {
            Order::Newest => (in_time.reverse(), in_seq.reverse()),
            Order::Oldest => (in_time, in_seq),
        };
        let rank = |position: &Self| (!position.is_own(), position.source.clone());
        in_time.then_with(|| rank(self).cmp(&rank(other))).then(in_seq).then_with(|| self.id.cmp(&other.id))
    }
}

/// The first `limit` lines beyond `after` in order, and the place where the next page begins, if there is more. The same
/// service and id from several sources is one line: the first in order.
pub fn merge(
    lists: Vec<Vec<Found>>,
    after: Option<&Position>,
    order: Order,
    limit: usize,
) -> (Vec<Found>, Option<Position>) {
    let mut all: Vec<(Position, Found)> = lists
        .into_iter()
        .flatten()
        .map(|found| (Position::of(&found, order), found))
        .filter(|(position, _)| after.is_none_or(|after| position.compare(after, order) == Ordering::Greater))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.compare(b, order));
    let mut givers: HashMap<(String, String), String> = HashMap::new();
    all.retain(|(_, found)| {
        let giver =
            givers.entry((found.line.service.clone(), found.line.id.clone())).or_insert_with(|| found.source.clone());
        *giver == found.source
    });
    let more = all.len() > limit;
    all.truncate(limit);
    let next = if more { all.last().map(|(position, _)| position.clone()) } else { None };
    (all.into_iter().map(|(_, found)| found).collect(), next)
}
