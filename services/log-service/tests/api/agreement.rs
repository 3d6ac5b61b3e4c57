//! Elasticsearch, PostgreSQL and the live tail read one tree: they must find the same lines in the same order.

use chrono::{DateTime, Utc};
use log_service::{
    line::Line,
    query::{Filter, Query},
    store::{After, Order, Search, elastic::Elastic, lines::Lines, search},
};
use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use crate::{harness::Harness, language::query};

const LINES: usize = 80;
const QUERIES: usize = 250;

fn corpus() -> impl Strategy<Value = Vec<Value>> {
    let word = prop_oneof![
        Just("boot"),
        Just("Hot"),
        Just("R-42"),
        Just("42"),
        Just("r"),
        Just("élan"),
        Just("bootstrap"),
        Just("."),
        Just("ÉLAN-r"),
        Just("100%_x")
    ];
    let value = prop_oneof![
        Just(json!("R-42")),
        Just(json!("boot")),
        Just(json!("a b")),
        Just(json!(42)),
        Just(json!(true)),
        Just(Value::Null),
        Just(json!("\"\\%_")),
        Just(json!(["boot", 42, ["R-42"]])),
        Just(json!({ "name": "boot hot" })),
        Just(json!(""))
    ];
    let line = (
        vec(word, 0..5),
        vec((prop_oneof![Just("robot"), Just("joint"), Just("list")], value), 0..3),
        0..6_usize,
        0..4_u8,
        0..20_i64,
    );
    vec(line, LINES).prop_map(|lines| {
        let lines = lines.into_iter().enumerate().map(|(n, (words, attributes, level, trace, second))| {
            let attributes: serde_json::Map<String, Value> =
                attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            // Few different times, so that their order is not all there is.
            let time = DateTime::<Utc>::from_timestamp(1_767_225_600 + second, 123_456_000).unwrap();
            let mut line = json!({
                "service": if n % 3 == 0 { "gaia" } else { "robot" }, "level": log_service::line::Level::ALL[level],
                "message": words.join(" "), "attributes": attributes, "timestamp": time, "id": format!("n{n}")
            });
            if trace > 0 {
                line["traceId"] = format!("t{trace}").into();
            }
            line
        });
        lines.collect()
    })
}

fn ids(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.id.as_str()).collect()
}

#[tokio::test]
async fn all_three_find_the_same_lines_in_the_same_order() {
    let logs = Harness::start().await;
    // The seed is in the message of a failure, and each run has another.
    let mut runner = TestRunner::new(Config::default());
    let corpus = corpus().new_tree(&mut runner).unwrap().current();
    logs.keep(&json!(corpus)).await;
    logs.shows(LINES).await;
    let pool = logs.database.pool("kronos_logs").await;
    let elastic = Elastic::new(&logs.config.elasticsearch).unwrap();
    let all = Lines::new(pool.clone()).after(0, 1000).await.unwrap();
    assert_eq!(all.len(), LINES);
    let mut hits = 0;
    for _ in 0..QUERIES {
        let query = query().new_tree(&mut runner).unwrap().current();
        let second = (0..25_i64).new_tree(&mut runner).unwrap().current();
        let oldest_first = any::<bool>().new_tree(&mut runner).unwrap().current();
        let time = DateTime::<Utc>::from_timestamp(1_767_225_600 + second, 123_456_000).unwrap();
        let order = if oldest_first { Order::Oldest } else { Order::Newest };
        let (from, to) = if second % 2 == 0 { (Some(time), None) } else { (None, Some(time)) };
        let filter = Filter { query: query.clone(), from, to };
        let mut expected: Vec<Line> = all.iter().filter(|line| filter.matches(line)).cloned().collect();
        expected.sort_by_key(|line| (line.occurred_at, line.seq));
        if order == Order::Newest {
            expected.reverse();
        }
        hits += expected.len();
        let mut search = Search { filter, order, after: None, limit: 1000 };
        let explain = |what: &str| format!("{what}: {query} from {from:?} to {to:?} {order:?}\n{}", json!(corpus));
        assert_eq!(ids(&search::find(&pool, &search).await.unwrap()), ids(&expected), "{}", explain("PostgreSQL"));
        assert_eq!(ids(&elastic.find(&search).await.unwrap()), ids(&expected), "{}", explain("Elasticsearch"));
        // And the same second page.
        if expected.len() > 2 {
            let last = &expected[expected.len() / 2 - 1];
            search.after = Some(After { occurred_at: last.occurred_at, seq: last.seq });
            let rest = &expected[expected.len() / 2..];
            assert_eq!(
                ids(&search::find(&pool, &search).await.unwrap()),
                ids(rest),
                "{}",
                explain("PostgreSQL, page 2")
            );
            assert_eq!(ids(&elastic.find(&search).await.unwrap()), ids(rest), "{}", explain("Elasticsearch, page 2"));
        }
    }
    assert!(hits > QUERIES, "queries that find nothing prove nothing: {hits}");
    let every = Search {
        filter: Filter { query: Query::All, from: None, to: None },
        order: Order::Oldest,
        after: None,
        limit: 1000,
    };
    let (mut found, kept) = (elastic.find(&every).await.unwrap(), search::find(&pool, &every).await.unwrap());
    for (line, kept) in found.iter_mut().zip(&kept) {
        line.terms.clone_from(&kept.terms);
    }
    assert_eq!(found, kept, "a line of the index is the line of the record");
    logs.stop().await;
}
