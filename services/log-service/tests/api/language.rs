//! The query language: what it means, and that nothing breaks its reader.

use chrono::Utc;
use log_service::{
    line::{Level, Line, NewLine},
    query::{Leaf, Query, parse},
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

fn line(value: Value) -> Line {
    let new: NewLine = serde_json::from_value(value).unwrap();
    new.accept(Utc::now()).unwrap()
}

#[test]
fn a_query_means_what_its_writer_expects() {
    let hot = line(json!({
        "service": "hyperion", "level": "warn", "message": "Arm of robot R-42 is too HOT", "traceId": "abc", "id": "n1",
        "attributes": { "robot": "R-42", "joint": { "name": "left elbow" }, "celsius": 81 }
    }));
    for (query, fits) in [
        ("", true),
        ("hot", true),
        ("HOT robot", true),
        ("hot cold", false),
        ("hot OR cold", true),
        ("cold OR arm hot", true),
        ("NOT cold", true),
        ("-hot", false),
        ("hot -cold", true),
        ("NOT (cold OR hot)", false),
        ("(cold OR hot) robot", true),
        ("\"too hot\"", true),
        ("\"hot too\"", false),
        ("r-42", true),
        ("r-43", false),
        ("rob*", true),
        ("obot", false),
        ("obot*", false),
        ("elbow", true),
        ("\"hot left\"", false),
        ("robot:R-42", true),
        ("robot:r-42", false),
        ("attributes.robot:R-42", true),
        ("joint.name:\"left elbow\"", true),
        ("joint.name:left", false),
        ("celsius:81", true),
        ("service:hyperion", true),
        ("service:hyper", false),
        ("level:warning", true),
        ("level:>=info", true),
        ("level:>=error", false),
        ("traceId:abc id:n1", true),
        ("message:hot", true),
        ("message:\"too hot\"", true),
        ("message:elbow", true),
        ("12:30", false),
        ("and", false),
        ("a\"b\"", false),
    ] {
        let parsed = parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(parsed.matches(&hot), fits, "{query}, read as {parsed:?}");
    }
}

#[test]
fn an_error_says_where_and_what() {
    for (query, at, message) in [
        ("(hot", 5, "`)` is missing"),
        ("hot)", 4, "`)` without `(`"),
        ("hot OR", 7, "a word is missing"),
        ("hot ()", 6, "a word is missing before `)`"),
        ("\"hot", 1, "the closing quote is missing"),
        ("level:loud", 7, "a level is one of trace, debug, info, warn, error, fatal"),
        ("hot !!", 5, "a word needs a letter or a digit"),
    ] {
        let error = parse(query).unwrap_err();
        assert_eq!((error.at, error.message), (at, message), "{query}");
    }
    assert!(parse(&"(".repeat(1_000)).is_err());
    assert!(parse(&"-".repeat(1_000)).is_err());
    assert!(parse(&"a ".repeat(1_001)).is_err());
}

/// Any tree that the reader can give.
pub(crate) fn query() -> impl Strategy<Value = Query> {
    let word = prop_oneof![
        Just("boot".to_owned()),
        Just("hot".to_owned()),
        Just("r".to_owned()),
        Just("42".to_owned()),
        Just("élan".to_owned()),
        Just("bo".to_owned())
    ];
    let value = prop_oneof![
        Just("R-42".to_owned()),
        Just("boot".to_owned()),
        Just("a b".to_owned()),
        Just("42".to_owned()),
        Just("\"\\%_".to_owned())
    ];
    let leaf = prop_oneof![
        4 => (vec(word, 1..3), any::<bool>()).prop_map(|(words, prefix)| Leaf::Words { words, prefix }),
        1 => prop_oneof![Just("robot"), Just("gaia")].prop_map(|name| Leaf::Service(name.into())),
        1 => (0..6_usize).prop_map(|level| Leaf::Level(Level::ALL[level])),
        1 => (0..6_usize).prop_map(|level| Leaf::AtLeast(Level::ALL[level])),
        1 => (0..3_u8).prop_map(|n| Leaf::TraceId(format!("t{n}"))),
        1 => (0..30_u8).prop_map(|n| Leaf::Id(format!("n{n}"))),
        2 => (prop_oneof![Just("robot"), Just("joint.name"), Just("list")], value)
            .prop_map(|(path, value)| Leaf::Attribute { path: path.into(), value }),
    ];
    leaf.prop_map(Query::Leaf).prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Query::Not(Box::new(inner))),
            vec(inner.clone(), 1..4).prop_map(Query::and),
            vec(inner, 1..4).prop_map(Query::or),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_text_of_the_language_s_own_signs_makes_it_panic(parts in vec(prop_oneof![
        Just("("), Just(")"), Just("\""), Just("AND"), Just("OR"), Just("NOT"), Just("-"), Just("*"), Just("\\"), Just(":"), Just(" "),
        Just("level:"), Just(">="), Just("warn"), Just("a"), Just("é"), Just("7"), Just("attributes.")
    ], 0..40)) {
        let text = parts.concat();
        if let Ok(query) = parse(&text) {
            prop_assert_eq!(parse(&query.to_string()), Ok(query));
        }
    }

    #[test]
    fn what_was_read_is_printed_and_read_again_as_the_same(text in "[a-zA-Z0-9éÀ()\":* \\\\.-]{0,60}") {
        if let Ok(query) = parse(&text) {
            prop_assert_eq!(parse(&query.to_string()), Ok(query));
        }
    }

    #[test]
    fn every_tree_is_printed_and_read_again_as_the_same(query in query()) {
        prop_assert_eq!(parse(&query.to_string()), Ok(query));
    }
}
