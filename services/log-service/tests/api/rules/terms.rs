//! How lines are cut into words.

use log_service::terms::{MAX_VALUE_CHARS, of, pair};
use serde_json::{Map, Value, json};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

#[test]
fn a_line_becomes_words_and_pairs() {
    let terms = of("Boot: R-42 läuft!", &map(json!({"robot": "R 42", "at": {"arm": [1, true]}, "none": null})));
    assert_eq!(terms, " boot r 42 läuft | 1 | true | r 42 =at.arm=1 =at.arm=true =robot=R~20~42 ");
}

#[test]
fn a_pair_holds_nothing_that_like_or_a_blank_could_mistake() {
    let term = pair("a b", "100% _x\\ =~");
    assert!(!term.contains(['%', '_', '\\', ' ']), "{term}");
    assert_ne!(pair("a=b", "c"), pair("a", "b=c"));
}

#[test]
fn long_values_are_found_by_their_words_only() {
    let long = "x".repeat(MAX_VALUE_CHARS + 1);
    assert!(!of("", &map(json!({ "k": long }))).contains("=k="));
}
