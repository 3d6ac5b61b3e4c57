//! What is taken out of lines before they are kept.

use log_service::redact::{REDACTED, attributes, message};
use serde_json::{Value, json};

#[test]
fn secret_keys_are_redacted_at_any_depth() {
    let map = json!({
        "user": "anna", "Password": "x", "x-api-key": "y", "nested": [{"access_token": "z", "n": 1}], "authorization": {"a": 1},
        "tokens": null
    });
    let clean = attributes(map.as_object().expect("an object").clone());
    assert_eq!(
        Value::Object(clean),
        json!({
            "user": "anna", "Password": REDACTED, "x-api-key": REDACTED, "nested": [{"access_token": REDACTED, "n": 1}],
            "authorization": REDACTED, "tokens": null
        })
    );
}

#[test]
fn messages_lose_the_values_of_secret_names() {
    for (text, clean) in [
        ("login password=hunter2 from home", "login password=[redacted] from home"),
        ("Authorization: Bearer abc.def.ghi sent", "Authorization: [redacted] sent"),
        ("header Bearer abc.def", "header Bearer [redacted]"),
        (r#"{"token":"abc","a":1}"#, r#"{"token":"[redacted]","a":1}"#),
        ("the token expired", "the token expired"),
        ("password: ", "password: "),
        ("a\0b", "a\u{fffd}b"),
        ("secret => 'x y'", "secret => '[redacted]'"),
    ] {
        assert_eq!(message(text), clean);
    }
}
