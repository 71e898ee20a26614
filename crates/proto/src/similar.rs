//! The word that may have been meant by one that is misspelt, for the error about it.

/// Changes of a letter that a slip may have: our choice, at which no two settings are taken for each other.
const CHANGES_MAX: usize = 2;

/// The known word that is nearest to `word`, if it differs by one or two letters that were changed, added, left out or
/// transposed, and by at most half of them.
pub fn similar<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let changes_max = CHANGES_MAX.min(word.chars().count() / 2);
    let near = known.into_iter().map(|known| (strsim::damerau_levenshtein(word, known), known));
    near.filter(|(changes, _)| *changes <= changes_max).min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_two_letters_has_its_word_and_another_word_has_none() {
        let known = ["history", "heartbeat", "listen", "lease", "open"];
        for (word, meant) in [
            ("histroy", Some("history")),
            ("hartbeat", Some("heartbeat")),
            ("listne", Some("listen")),
            ("colour", None),
            ("op", None),
            ("", None),
        ] {
            assert_eq!(similar(word, known), meant, "{word:?}");
        }
    }
}
