//! The rules of names, tags and lifetimes, as tables and properties.

use std::time::Duration;

use cache_service::entry::{Key, Lifetimes, Namespace, Refused, Tag, Tags};

#[test]
fn namespaces() {
    for (text, good) in [
        ("a", true),
        ("0", true),
        ("robots.v2_eu-west", true),
        (&"n".repeat(64), true),
        (&"n".repeat(65), false),
        ("", false),
        (".hidden", false),
        ("_a", false),
        ("A", false),
        ("a b", false),
        ("a/b", false),
        ("a{b}", false),
        ("é", false),
    ] {
        assert_eq!(Namespace::try_from(text.to_owned()).is_ok(), good, "{text}");
    }
}

#[test]
fn keys_count_bytes_not_characters() {
    assert!(Key::try_from("é".repeat(256)).is_ok());
    assert_eq!(Key::try_from("é".repeat(257)), Err(Refused::Key));
    assert_eq!(Key::try_from(String::new()), Err(Refused::Key));
}

#[test]
fn tags_are_split_trimmed_and_different() {
    for (values, expected) in
        [(&[][..], ""), (&[""], ""), (&["a"], "a"), (&[" a , b,,a "], "a,b"), (&["a", "b,c"], "a,b,c")]
    {
        assert_eq!(Tags::parse(values.iter().copied()).unwrap().joined(), expected, "{values:?}");
    }
    assert_eq!(Tags::parse(["a b"]), Err(Refused::Tag));
    let many = |count: usize| (0..count).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    assert!(Tags::parse([many(16).as_str()]).is_ok());
    assert_eq!(Tags::parse([many(17).as_str()]), Err(Refused::TooManyTags));
    assert!(Tags::parse([format!("{},t0,t1", many(16)).as_str()]).is_ok(), "the same again is not more");
}

#[test]
fn no_tag_can_be_mistaken_for_the_bookkeeping() {
    for text in ["", "#", ",", "a,b", "a:1:", "{a}", "a\n"] {
        let good = text == "a:1:";
        assert_eq!(Tag::try_from(text.to_owned()).is_ok(), good, "{text:?}");
    }
}

#[test]
fn lifetimes_have_bounds_that_fit() {
    let lifetimes = Lifetimes::new(60, 3600).unwrap();
    assert_eq!(lifetimes.choose(None), Ok(Duration::from_secs(60)));
    assert_eq!(lifetimes.choose(Some(1)), Ok(Duration::from_secs(1)));
    assert_eq!(lifetimes.choose(Some(3600)), Ok(Duration::from_secs(3600)));
    for wanted in [0, 3601, u64::MAX] {
        assert!(lifetimes.choose(Some(wanted)).is_err(), "{wanted}");
    }
    for (default, longest) in [(0, 60), (61, 60), (60, 30 * 24 * 3600 + 1)] {
        assert!(Lifetimes::new(default, longest).is_err(), "{default} {longest}");
    }
}
