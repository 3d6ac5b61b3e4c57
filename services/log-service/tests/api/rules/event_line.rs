//! Domain events as lines.

use kronos_common::event::Event;
use log_service::{event_line::line_of, line::Level};
use serde_json::{Value, json};

#[test]
fn an_event_becomes_a_line_of_its_source() {
    let line = line_of(Event::new("kronos.user.login-failed", "u-1", json!({ "reason": "disabled" })));
    assert_eq!((line.service.as_str(), line.level), ("kronos.user", Level::Warn));
    assert_eq!(line.message, "kronos.user.login-failed u-1");
    assert_eq!(line.attributes.expect("data")["reason"], "disabled");
    assert_eq!(line_of(Event::new("kronos.user.created", "u", Value::Null)).level, Level::Info);
}
