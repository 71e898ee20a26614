use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_json_prints_as_one_line_of_ascii_that_prints_as_itself(
        text in r#"([\[\]{}:,"\\ux0-9eE.+\-</é😀 \n]|true|null|NaN|"a"|\\ud83d|,\n)*"#
    ) {
        if let Ok(line) = rewrite(&text) {
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
            prop_assert!(!line.contains("</"), "{line:?}");
            prop_assert_eq!(rewrite(&line), Ok(line));
        }
    }
}

fn printed(text: &str) -> String {
    rewrite(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn numbers_are_printed_as_python_prints_them() {
    for (text, expected) in [
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1.0", "1.0"),
        ("1e2", "100.0"),
        ("1E15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("12345678901234567.0", "1.2345678901234568e+16"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("5e-324", "5e-324"),
        ("0.1", "0.1"),
        ("-0.00012", "-0.00012"),
        ("707451628570082.25", "707451628570082.2"),
        ("9007199254740993.0", "9007199254740992.0"),
        ("1E400", "Infinity"),
        ("-1E400", "-Infinity"),
        ("1e-400", "0.0"),
        ("[NaN,Infinity,-Infinity]", "[NaN, Infinity, -Infinity]"),
    ] {
        assert_eq!(printed(text), expected, "of {text}");
    }
}

#[test]
fn strings_are_ascii_and_cannot_end_a_script() {
    for (text, expected) in [
        (r#""é€😀""#, r#""\u00e9\u20ac\ud83d\ude00""#),
        (r#""\ud83d\ude00 \ud83d \u0041\/\u003c/""#, r#""\ud83d\ude00 \ud83d A/<\/""#),
        ("\"\u{7f}\\b\\f\\n\\r\\t\\\"\\\\\\u0000\"", r#""\u007f\b\f\n\r\t\"\\\u0000""#),
        (r#""</script><//>""#, r#""<\/script><\//>""#),
    ] {
        assert_eq!(printed(text), expected, "of {text}");
    }
}

#[test]
fn a_member_given_twice_has_its_last_value_at_its_first_position() {
    assert_eq!(printed(r#"{"a":1,"b":2,"\u0061":{"a":3,"a":4}}"#), r#"{"a": {"a": 4}, "b": 2}"#);
    assert_eq!(printed(" [ ] "), "[]");
    assert_eq!(printed("{\r\n\t}"), "{}");
}

#[test]
fn faults_have_the_messages_of_python() {
    for (text, expected) in [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("nope", "Expecting value: line 1 column 1 (char 0)"),
        ("é", "Expecting value: line 1 column 1 (char 0)"),
        ("[\"é\",\n ]", "Expecting value: line 2 column 2 (char 7)"),
        (
            "{\"a\":1,}",
            "Expecting property name enclosed in double quotes: line 1 column 8 (char 7)",
        ),
        ("{\"a\" 1}", "Expecting ':' delimiter: line 1 column 6 (char 5)"),
        ("[1 2]", "Expecting ',' delimiter: line 1 column 4 (char 3)"),
        ("01", "Extra data: line 1 column 2 (char 1)"),
        ("1.", "Extra data: line 1 column 2 (char 1)"),
        ("-", "Expecting value: line 1 column 1 (char 0)"),
        ("\"abc", "Unterminated string starting at: line 1 column 1 (char 0)"),
        ("\"a\\", "Unterminated string starting at: line 1 column 1 (char 0)"),
        ("\"a\tb\"", "Invalid control character at: line 1 column 3 (char 2)"),
        ("\"a\\x\"", "Invalid \\escape: line 1 column 3 (char 2)"),
        ("\"\\u12g4\"", "Invalid \\uXXXX escape: line 1 column 3 (char 2)"),
        ("\"\\u+123\"", "Invalid \\uXXXX escape: line 1 column 3 (char 2)"),
        ("\u{feff}1", "Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)"),
    ] {
        let error = rewrite(text).expect_err(text).to_string();
        assert_eq!(error, expected, "of {text:?}");
    }
}

#[test]
fn nesting_ends_before_the_stack_does() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(printed(&nested(CLASSIC_JSON_DEPTH_MAX)), nested(CLASSIC_JSON_DEPTH_MAX));
    let error = rewrite(&nested(CLASSIC_JSON_DEPTH_MAX + 1)).unwrap_err().to_string();
    assert_eq!(error, "Nested too deep: line 1 column 901 (char 900)");
}
