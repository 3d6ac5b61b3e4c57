//! The codec of refresh tokens and the rule of families.

use auth_service::refresh_token::{Codec, FamilyState, RefreshToken, Verdict, judge};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

fn state(generation: u64) -> (FamilyState, DateTime<Utc>) {
    let rotated_at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let family = FamilyState {
        generation,
        rotated_at,
        ended: false,
        expires_at: rotated_at + TimeDelta::days(90),
        idle_expires_at: rotated_at + TimeDelta::days(14),
    };
    (family, rotated_at)
}

#[test]
fn a_token_is_good_once_and_repeated_within_the_grace() {
    let (family, rotated_at) = state(5);
    for (presented, after_seconds, expected) in [
        (5, 0, Verdict::Current),
        (5, 1_000_000, Verdict::Current),
        (4, 0, Verdict::Repeated),
        (4, 10, Verdict::Repeated),
        (4, 11, Verdict::Reused),
        (3, 0, Verdict::Reused),
        (0, 0, Verdict::Reused),
        (6, 0, Verdict::Reused),
        (5, 14 * 86_400, Verdict::Over),
        (3, 14 * 86_400, Verdict::Over),
    ] {
        let now = rotated_at + TimeDelta::seconds(after_seconds);
        assert_eq!(
            judge(presented, &family, now, TimeDelta::seconds(10)),
            expected,
            "{presented} after {after_seconds} s"
        );
    }
    let ended = FamilyState { ended: true, ..family };
    assert_eq!(judge(5, &ended, rotated_at, TimeDelta::seconds(10)), Verdict::Over);
    let (first, at) = state(0);
    assert_eq!(judge(u64::MAX, &first, at, TimeDelta::seconds(10)), Verdict::Reused);
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(family: u128, generation: u64, secret in proptest::collection::vec(any::<u8>(), 32)) {
        let codec = Codec::new(&secret);
        let token = RefreshToken { family: Uuid::from_u128(family), generation };
        let text = codec.encode(token);
        prop_assert_eq!(codec.decode(&text), Some(token));
        prop_assert_eq!(codec.encode(token), text, "the same successor again");
    }

    #[test]
    fn another_secret_makes_other_tokens(family: u128, generation: u64) {
        let token = RefreshToken { family: Uuid::from_u128(family), generation };
        let text = Codec::new(&[1; 32]).encode(token);
        prop_assert_eq!(Codec::new(&[2; 32]).decode(&text), None);
    }

    #[test]
    fn no_changed_character_is_accepted(generation: u64, at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]") {
        let codec = Codec::new(&[7; 32]);
        let text = codec.encode(RefreshToken { family: Uuid::from_u128(42), generation });
        let at = at.index(text.len());
        prop_assume!(text[at..=at] != with);
        let mut changed = text.clone();
        changed.replace_range(at..=at, &with);
        prop_assert_eq!(codec.decode(&changed), None);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,120}") {
        let codec = Codec::new(&[7; 32]);
        prop_assert_eq!(codec.decode(&text), None);
        prop_assert_eq!(codec.decode(&format!("krt_{text}")), None);
    }
}
