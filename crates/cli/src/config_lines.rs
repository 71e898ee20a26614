//! Where in a configuration file something stands, for the message of a fault.

/// The line, counted from 1, on which a key is set: `lease`, or `actions.ping.run` below `[actions.ping]`. `None` for one that
/// is written in another way.
pub(crate) fn line_of(text: &str, key: &str) -> Option<usize> {
    let (wanted_table, wanted) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = String::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(heading) = line.strip_prefix('[') {
            table = heading.split(']').next().unwrap_or_default().trim().to_owned();
        }
        let set = line.split_once('=').map(|(key, _)| key.trim());
        if (table == wanted_table && set == Some(wanted)) || (line.starts_with('[') && table == key)
        {
            return Some(at + 1);
        }
    }
    None
}

/// What to do where a line is not TOML because a text in it has no quotes; empty where it is for another reason.
pub(crate) fn quotes_hint(text: &str, line: usize) -> String {
    let value = line.checked_sub(1).and_then(|at| text.lines().nth(at)?.split_once('='));
    match value.map(|(_, value)| value.trim()) {
        Some(value) if value.starts_with(|c: char| c.is_alphanumeric() || "/.~*".contains(c)) => {
            format!("; a text has quotes around it: \"{}\"", value.replace('"', ""))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_its_own_table() {
        let text = "hub = 1\n\n[actions.ping]\nrun = 2\n[actions.x] # run\nrun = 3\n";
        for (key, line) in [
            ("hub", Some(1)),
            ("actions.ping.run", Some(4)),
            ("actions.x.run", Some(6)),
            ("actions.x", Some(5)),
            ("run", None),
        ] {
            assert_eq!(line_of(text, key), line, "{key}");
        }
    }

    #[test]
    fn a_text_without_quotes_is_shown_with_them() {
        let text = "listen = 127.0.0.1:8888\nopen = true\nx = [";
        assert!(quotes_hint(text, 1).ends_with("\"127.0.0.1:8888\""));
        assert_eq!((quotes_hint(text, 3), quotes_hint(text, 9)), (String::new(), String::new()));
    }
}
