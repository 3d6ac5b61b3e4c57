//! How people's names are compared: not by their bytes. Two usernames that a person would take for the same are the same.

use unicode_normalization::UnicodeNormalization as _;

/// What two names have in common if they are the same: Unicode form NFKC, lower case, no blanks around.
pub fn key(name: &str) -> String {
    // Lower case may leave the form, so it is restored.
    let lower: String = name.trim().nfkc().collect::<String>().to_lowercase();
    lower.nfkc().collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn case_and_unicode_form_make_no_other_name() {
        for (a, b) in [
            ("Élodie", "e\u{301}lodie"),
            ("ｃａｍｉｌｌｅ", "Camille"),
            ("ﬁona", "FIONA"),
            (" theo ", "THEO"),
            ("Å", "\u{212b}"),
        ] {
            assert_eq!(key(a), key(b), "{a} and {b}");
        }
        assert_ne!(key("theo"), key("théo"));
    }

    proptest! {
        #[test]
        fn the_key_of_a_key_is_itself(name in any::<String>()) {
            prop_assert_eq!(key(&key(&name)), key(&name));
        }
    }
}
