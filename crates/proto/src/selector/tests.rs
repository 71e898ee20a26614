use super::*;
use crate::facts::selectable;
use crate::json::Json;
use crate::limits::{SELECTOR_CHARS_MAX, SELECTOR_REQUIREMENTS_MAX};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_selector_means_what_kubernetes_means() {
    let kiosk = labels(&[("site", "lyon"), ("os", "deb12"), ("example.com/tier", ""), ("in", "a")]);
    for (selector, met) in [
        ("", true),
        (" \t\r\n", true),
        ("site=lyon", true),
        ("site==lyon", true),
        ("site = lyon , os = deb12", true),
        ("site!=lyon", false),
        ("site != paris", true),
        ("shop!=lyon", true),
        ("os in (deb11,deb12)", true),
        ("os in(deb12)", true),
        ("os in (deb12,deb12)", true),
        ("os in ( deb11 , deb13 )", false),
        ("os notin (deb11)", true),
        ("os\nnotin\t(deb12)", false),
        ("shop notin (a)", true),
        ("shop in (a)", false),
        ("site", true),
        ("!site", false),
        ("! spare,site", true),
        ("in in (a)", true),
        ("in", true),
        ("notin!=a", true),
        ("example.com/tier=", true),
        ("example.com/tier in ()", true),
        ("example.com/tier in (,a)", true),
        ("shop=,site", false),
        ("site=paris,os=deb12", false),
    ] {
        let parsed: Selector = selector.parse().expect(selector);
        assert_eq!(parsed.matches(&kiosk), met, "{selector}");
        let again: Selector = parsed.to_string().parse().expect("what is shown parses");
        assert_eq!(again, parsed, "{selector}");
    }
}

#[test]
fn a_key_that_begins_with_facts_is_a_fact_and_not_a_label() {
    let facts =
        r#"{"os":"linux","cpus":4,"secure":true,"motd":"Hello, you","disks":["sda"],"a.b/c":"x"}"#;
    let facts = selectable(&Json::parse(facts).unwrap());
    let labelled = labels(&[("facts.os", "beos"), ("site", "lyon")]);
    for (selector, met) in [
        ("facts.os=linux", true),
        ("facts.os=beos", false),
        ("facts.os in (linux,bsd),site=lyon", true),
        ("facts.cpus=4,facts.secure==true", true),
        ("facts.cpus!=4", false),
        ("facts.motd", true),
        ("!facts.motd", false),
        ("facts.motd notin (a)", true),
        ("facts.disks", false),
        ("facts.a.b/c=x", true),
        ("os=linux", false),
        ("facts=a", false),
        ("facts!=a", true),
    ] {
        let parsed: Selector = selector.parse().expect(selector);
        assert_eq!(parsed.selects(&labelled, &facts), met, "{selector}");
        let again: Selector = parsed.to_string().parse().expect("what is shown parses");
        assert_eq!(again, parsed, "{selector}");
    }
    assert!("a,facts.b".parse::<Selector>().unwrap().sees_facts());
    assert!(!"a,facts".parse::<Selector>().unwrap().sees_facts());
}

#[test]
fn text_that_is_not_a_selector_is_refused_with_the_position() {
    for (bad, at) in [
        (",", 0),
        ("a,", 2),
        ("a,,b", 2),
        ("=b", 0),
        ("a=b=c", 3),
        ("a in", 4),
        ("a in b", 5),
        ("a in (", 6),
        ("a in (b", 7),
        ("a in (b c)", 8),
        ("!a=b", 2),
        ("!", 1),
        ("a b", 2),
        ("a!b", 1),
        ("a=-b", 2),
        ("-a=b", 0),
        ("é=b", 0),
        ("a=é", 2),
        ("a>1", 1),
        ("a/b/c=d", 0),
        ("A.b/c=d/e", 0),
        ("facts.=a", 6),
        ("site=lyon,os is x", 13),
    ] {
        let error = bad.parse::<Selector>().expect_err(bad);
        assert_eq!(error.at, at, "{bad}: {error}");
    }
    let said = |text: &str| text.parse::<Selector>().unwrap_err().to_string();
    assert_eq!(
        said("site=lyon,os is x"),
        "not a selector: =, ==, !=, in, notin or a comma is expected at character 14 (\"is x\")"
    );
    assert_eq!(
        said("a in (b"),
        "not a selector: a comma or a closing bracket is expected at character 8"
    );
}

#[test]
fn a_selector_is_bounded_and_so_is_what_is_shown_of_it() {
    let longest = format!("a in ({})", vec!["x"; SELECTOR_CHARS_MAX].join(","));
    assert_eq!(longest.parse::<Selector>().unwrap_err().at, SELECTOR_CHARS_MAX);
    let many = vec!["a"; SELECTOR_REQUIREMENTS_MAX].join(",");
    assert!(many.parse::<Selector>().is_ok());
    let error = format!("{many},b").parse::<Selector>().unwrap_err();
    assert_eq!(error.at, many.len() + 1, "{error}");
    // Shown with a space that is not in it, this is one character longer than may be.
    let values: Vec<String> = (0..63).map(|n| format!("{n:063}")).collect();
    let text = format!("a in({})", values.join(","));
    let pad = "b".repeat(SELECTOR_CHARS_MAX - text.len() - 1);
    let text = format!("{pad},{text}");
    assert!(text.len() == SELECTOR_CHARS_MAX && pad.len() < 63, "{}", pad.len());
    assert_eq!(text.parse::<Selector>().unwrap_err().at, SELECTOR_CHARS_MAX);
    assert!(text.replacen('b', "", 1).parse::<Selector>().is_ok());
}
