//! What a line must be, and what makes two lines the same.

use chrono::Utc;
use log_service::line::{Level, MAX_MESSAGE_CHARS, NewLine};
use serde_json::{Value, json};

fn new_line(value: Value) -> NewLine {
    serde_json::from_value(value).expect("a line")
}

#[test]
fn every_bad_field_is_named() {
    let line = new_line(json!({
        "service": " ", "level": "info", "message": "x".repeat(MAX_MESSAGE_CHARS + 1), "id": "", "traceId": "a\u{0}",
        "timestamp": "0001-01-01T00:00:00Z"
    }));
    let fields: Vec<_> = line.accept(Utc::now()).expect_err("bad").iter().map(|refusal| refusal.field).collect();
    assert_eq!(fields, ["service", "message", "id", "traceId", "timestamp"]);
}

#[test]
fn a_named_line_has_the_same_key_every_time_and_for_each_service_its_own() {
    let accept = |service: &str| {
        let line = new_line(json!({"service": service, "level": "INFO", "message": "m", "id": "1"}));
        line.accept(Utc::now()).expect("good").key
    };
    assert_eq!(accept("a"), accept("a"));
    assert_ne!(accept("a"), accept("b"));
}

#[test]
fn levels_are_read_in_the_words_of_other_systems() {
    for (text, level) in
        [("WARNING", Level::Warn), ("err", Level::Error), (" Notice ", Level::Info), ("crit", Level::Fatal)]
    {
        assert_eq!(text.parse::<Level>().expect("a level"), level);
    }
    assert!("loud".parse::<Level>().is_err());
    assert!(Level::Warn < Level::Error);
}
