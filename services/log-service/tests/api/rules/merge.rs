//! One order out of several sources.

use chrono::Utc;
use log_service::{
    line::NewLine,
    merge::{Found, OWN, merge},
    store::Order,
};
use serde_json::json;

fn found(source: &str, second: u32, id: &str, seq: i64) -> Found {
    let new: NewLine = serde_json::from_value(json!({
        "service": "robot", "level": "info", "message": "m", "id": id, "timestamp": format!("2026-01-01T00:00:{second:02}Z")
    }))
    .expect("a line");
    let mut line = new.accept(Utc::now()).expect("good");
    line.seq = seq;
    Found { source: source.into(), line }
}

fn names(found: &[Found]) -> Vec<String> {
    found.iter().map(|found| format!("{}:{}", found.source, found.line.id)).collect()
}

fn corpus() -> Vec<Vec<Found>> {
    vec![
        vec![found(OWN, 3, "d", 4), found(OWN, 1, "b", 2), found(OWN, 1, "a", 1)],
        vec![found("gaia", 3, "g3", 0), found("gaia", 1, "a", 0), found("gaia", 0, "g0", 0)],
    ]
}

#[test]
fn lines_of_several_sources_are_one_order_and_a_copy_is_left_out() {
    let (items, next) = merge(corpus(), None, Order::Newest, 10);
    assert_eq!(names(&items), ["kronos:d", "gaia:g3", "kronos:b", "kronos:a", "gaia:g0"]);
    assert_eq!(next, None);
}

#[test]
fn pages_of_any_size_give_every_line_once() {
    for order in [Order::Newest, Order::Oldest] {
        let (whole, _) = merge(corpus(), None, order, 10);
        for limit in 1..6 {
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let (items, next) = merge(corpus(), after.as_ref(), order, limit);
                pages.extend(items);
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            // A copy whose first has gone by on an earlier page at the same time comes again: see docs/logs.md.
            pages.retain(|found| !(found.source == "gaia" && found.line.id == "a"));
            assert_eq!(names(&pages), names(&whole).into_iter().filter(|name| name != "gaia:a").collect::<Vec<_>>());
        }
    }
}
