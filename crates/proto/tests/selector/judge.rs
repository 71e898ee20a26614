//! What holds of every text that is read as a selector. Shared with the fuzz target.

use bellwire_proto::limits::{SELECTOR_CHARS_MAX, SELECTOR_REQUIREMENTS_MAX};
use bellwire_proto::{Labels, Selector};

pub(crate) fn selector(text: &str) {
    match text.parse::<Selector>() {
        Ok(selector) => {
            let shown = selector.to_string();
            assert!(
                shown.len() <= SELECTOR_CHARS_MAX,
                "{text:?} is shown as {} bytes",
                shown.len()
            );
            assert!(selector.requirements().len() <= SELECTOR_REQUIREMENTS_MAX, "{text:?}");
            assert_eq!(shown.parse().as_ref(), Ok(&selector), "{text:?} is shown as {shown:?}");
            let _either = selector.matches(&Labels::new());
        }
        Err(error) => {
            let chars = text.chars().count();
            assert!(error.at <= chars, "{text:?}: the error is at {} of {chars}", error.at);
            assert!(error.to_string().len() < 300, "{text:?}: {error}");
        }
    }
}
