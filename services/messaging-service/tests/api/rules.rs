//! Rules without I/O: the receipt, the back-off, whose delivery is meant, whose turn it is.

use std::time::Duration;

use chrono::Utc;
use messaging_service::{
    delivery::{Candidate, Id, Meaning, Receipt, backoff, by_message, by_receipt},
    message::one_line,
    resume::Place,
    seats::{Handed, Seats},
};
use proptest::prelude::*;
use uuid::Uuid;

proptest! {
    #[test]
    fn a_receipt_is_read_back(delivery_id: i64, lease_id: u128) {
        let receipt = Receipt { delivery_id, lease_id: Uuid::from_u128(lease_id) };
        let text = receipt.encode();
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        prop_assert_eq!(Receipt::decode(&text), Some(receipt));
        prop_assert_eq!(Id::parse(&text), Some(Id::Receipt(receipt)));
    }

    #[test]
    fn no_text_makes_the_receipt_reader_panic(text in ".{0,80}") {
        if let Some(receipt) = Receipt::decode(&text) {
            prop_assert_eq!(receipt.encode(), text);
        }
    }

    #[test]
    fn a_back_off_doubles_up_to_its_limit(base_ms in 0_u64..3_600_000, longest_ms in 0_u64..10_000_000, attempt in 0_u32..200, random in 0.0..=1.0_f64) {
        let (base, longest) = (Duration::from_millis(base_ms), Duration::from_millis(longest_ms));
        let wait = backoff(base, longest, attempt, random);
        prop_assert!(wait <= longest);
        prop_assert!(wait <= backoff(base, longest, attempt, 0.0));
        prop_assert!(wait >= backoff(base, longest, attempt, 0.0).mul_f64(0.749));
        prop_assert!(backoff(base, longest, attempt, 0.0) <= backoff(base, longest, attempt + 1, 0.0));
        if attempt <= 1 && base <= longest {
            prop_assert_eq!(backoff(base, longest, attempt, 0.0), base);
        }
    }

    #[test]
    fn json_on_one_line_means_the_same(text in "[\\x20-\\x7e\n\r\t]{0,40}", number: i32) {
        let value = serde_json::json!({ "text": text, "numbers": [number, 1.5] });
        let pretty = serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n");
        let line = one_line(pretty.as_bytes());
        prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&line).unwrap(), value);
    }

    #[test]
    fn whatever_comes_from_elsewhere_becomes_json(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let line = one_line(&bytes);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }
}

fn row(group: &str, state: &str, principal: &str) -> Candidate {
    Candidate {
        delivery_id: 1,
        topic: "q".to_owned(),
        group_id: Uuid::nil(),
        group_name: group.to_owned(),
        state: state.to_owned(),
        held: state == "leased",
        lease_id: (!principal.is_empty()).then(|| Uuid::from_u128(7)),
        principal: (!principal.is_empty()).then(|| principal.to_owned()),
        attempt: 2,
        max_attempts: 5,
        max_backoff_ms: None,
        backoff_ms: 100,
        lease_ms: 1000,
    }
}

/// What it is, the copies, `?group=`, `?attempt=`, what is meant.
type Case = (&'static str, Vec<Candidate>, Option<&'static str>, Option<i32>, &'static str);

#[test]
fn a_message_id_means_the_delivery_that_the_caller_holds() {
    let over = || Candidate { held: false, ..row("g", "leased", "me") };
    let table: Vec<Case> = vec![
        ("nothing", vec![], None, None, "Unknown"),
        ("another group only", vec![row("g", "leased", "me")], Some("h"), None, "Unknown"),
        ("mine", vec![row("g", "leased", "me")], None, None, "Held"),
        ("mine, this attempt", vec![row("g", "leased", "me")], None, Some(2), "Held"),
        ("mine, an older attempt", vec![row("g", "leased", "me")], None, Some(1), "Stale"),
        ("somebody else's", vec![row("g", "leased", "you")], None, None, "Stale"),
        ("its lease is over", vec![over()], None, None, "Stale"),
        ("waiting", vec![row("g", "ready", "me")], None, None, "Stale"),
        ("never handed out", vec![row("g", "ready", "")], None, None, "Stale"),
        ("acknowledged by me", vec![row("g", "settled", "me")], None, None, "Settled"),
        ("acknowledged by another", vec![row("g", "settled", "you")], None, None, "Stale"),
        ("mine twice", vec![row("g", "leased", "me"), row("h", "leased", "me")], None, None, "Ambiguous"),
        ("mine twice, one named", vec![row("g", "leased", "me"), row("h", "leased", "me")], Some("h"), None, "Held"),
        ("mine, and another's", vec![row("g", "leased", "me"), row("h", "leased", "you")], None, None, "Held"),
        ("mine, and a dead one", vec![row("g", "leased", "me"), row("h", "dead", "me")], None, None, "Held"),
        ("dead", vec![row("g", "dead", "you"), row("h", "settled", "me")], None, None, "Dead"),
        ("dead twice", vec![row("g", "dead", "you"), row("h", "dead", "me")], None, None, "Ambiguous"),
    ];
    for (name, rows, group, attempt, expected) in table {
        let meaning = format!("{:?}", by_message(rows, "me", group, attempt));
        assert!(meaning.starts_with(expected), "{name}: {meaning}");
    }
}

#[test]
fn a_receipt_means_its_own_hand_out_only() {
    let receipt = Receipt { delivery_id: 1, lease_id: Uuid::from_u128(7) };
    let older = Receipt { lease_id: Uuid::from_u128(6), ..receipt };
    // A receipt is a right in itself: whoever holds it may use it.
    let leased = || Some(row("g", "leased", "you"));
    assert!(matches!(by_receipt(leased(), receipt), Meaning::Held(_)));
    assert!(matches!(by_receipt(leased(), older), Meaning::Stale));
    assert!(matches!(by_receipt(Some(row("g", "ready", "you")), receipt), Meaning::Stale));
    assert!(matches!(by_receipt(Some(row("g", "settled", "you")), receipt), Meaning::Settled));
    assert!(matches!(by_receipt(Some(row("g", "settled", "you")), older), Meaning::Stale));
    assert!(matches!(by_receipt(Some(row("g", "dead", "you")), receipt), Meaning::Dead(_)));
    assert!(matches!(by_receipt(None, receipt), Meaning::Unknown));
}

#[test]
fn seats_are_dealt_out_in_turn_and_never_beyond_a_window() {
    let mut seats = Seats::default();
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut first = seats.add(one, "one".to_owned(), 2, 1000);
    let _second = seats.add(two, "two".to_owned(), 4, 1000);
    let order: Vec<Uuid> = seats.free().iter().map(|seat| seat.subscriber_id).collect();
    assert_eq!(order, [one, two, one, two, two, two]);

    let handed = |lease: u128| Handed {
        receipt: Receipt { delivery_id: 1, lease_id: Uuid::from_u128(lease) },
        bytes: 10,
        json: String::new(),
        lease_expires_at: Utc::now(),
    };
    assert!(seats.hand(one, handed(10)) && seats.hand(one, handed(11)));
    assert!(seats.free().iter().all(|seat| seat.subscriber_id == two), "the first one's window is full");
    assert!(seats.release(one, Uuid::from_u128(10)));
    assert!(seats.free().iter().all(|seat| seat.subscriber_id == two), "it has read nothing yet");
    first.try_recv().unwrap();
    assert_eq!(seats.free().iter().filter(|seat| seat.subscriber_id == one).count(), 1);
    assert!(!seats.release(one, Uuid::from_u128(10)), "a lease ends once");
    assert_eq!(seats.remove(one).len(), 1);
    assert!(!seats.hand(one, handed(12)), "nobody is there");
}

#[test]
fn a_subscriber_holds_no_more_bytes_than_it_may_but_for_one_message() {
    let mut seats = Seats::default();
    let one = Uuid::from_u128(1);
    let mut receiver = seats.add(one, "one".to_owned(), 10, 100);
    let handed = |lease: u128| Handed {
        receipt: Receipt { delivery_id: 1, lease_id: Uuid::from_u128(lease) },
        bytes: 60,
        json: String::new(),
        lease_expires_at: Utc::now(),
    };
    assert!(seats.hand(one, handed(1)));
    assert!(!seats.free().is_empty());
    assert!(seats.hand(one, handed(2)));
    receiver.try_recv().unwrap();
    receiver.try_recv().unwrap();
    assert!(seats.free().is_empty(), "120 bytes of 100");
    assert_eq!(seats.full(), [one]);
    assert!(seats.release(one, Uuid::from_u128(1)));
    assert!(!seats.free().is_empty());
    assert!(seats.correct(&[one], &[]), "it holds nothing in truth");
    assert!(seats.hand(one, handed(3)) && !seats.free().is_empty(), "its bytes were forgotten too");
}

proptest! {
    #[test]
    fn a_resume_token_says_what_it_was_made_of(offsets in proptest::collection::vec(0..i64::MAX, 1..65), id: u128) {
        let topic = Uuid::from_u128(id);
        for place in [Place::Offset(offsets[0]), Place::Since(offsets[0]), Place::Offsets(offsets)] {
            let token = place.encode(topic);
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            prop_assert_eq!(Place::decode(&token, topic), Some(place));
            prop_assert_eq!(Place::decode(&token, Uuid::from_u128(id ^ 1)), None);
        }
    }

    #[test]
    fn no_text_makes_a_resume_token_panic(text in "[A-Za-z0-9_=-]{0,60}", bytes: Vec<u8>, id: u128) {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let topic = Uuid::from_u128(id);
        let _ = Place::decode(&text, topic);
        let mut long = vec![1];
        long.extend_from_slice(&topic.as_bytes()[8..]);
        long.extend_from_slice(&bytes);
        let _ = Place::decode(&URL_SAFE_NO_PAD.encode(long), topic);
    }
}
