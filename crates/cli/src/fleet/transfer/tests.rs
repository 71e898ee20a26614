//! What a file of labels may look like, and how its faults are reported.

use super::*;

fn parsed(text: &str) -> Result<Vec<(String, String)>, String> {
    let devices = parse(text.as_bytes()).map_err(|e| e.0)?;
    Ok(devices.iter().map(|(device, labels)| (device.to_string(), out::labels(labels))).collect())
}

#[test]
fn a_file_has_labels_in_one_column_or_a_column_for_each_key() {
    let expected: Vec<(String, String)> =
        [("a", "os=deb12,site=lyon"), ("b", ""), ("c", "site=oslo,spare=")]
            .map(|(device, labels)| (device.to_owned(), labels.to_owned()))
            .into();
    for text in [
        "device,labels\na,\"site=lyon,os=deb12\"\nb,\nc,\"site=oslo,spare=\"\n",
        "labels,device\r\n\"site=lyon, os=deb12\",a\r\n\"\",b\r\n\"spare=,site=oslo\",c\r\n",
        "\u{feff}device,site,os,labels\na,lyon,deb12,\n\nb,,,\nc,oslo,,spare=\n",
        "device , site, labels\n a , lyon , os=deb12\nb,,\nc,oslo,spare=",
        "device,labels\r\n\"a\" ,\"site=lyon,os=deb12\" \r\n\r\nb,\"\"\r\nc,\"site=oslo,spare=\"",
    ] {
        assert_eq!(parsed(text), Ok(expected.clone()), "{text:?}");
    }
    assert_eq!(parsed("device\na\n"), Ok(vec![("a".to_owned(), String::new())]));
}

#[test]
fn a_line_that_is_wrong_is_named_and_nothing_of_the_file_is_taken() {
    for (text, message) in [
        ("", "none of them is `device`"),
        ("name,site\na,lyon\n", "none of them is `device`"),
        ("device,a b\na,x\n", "line 1: the column \"a b\""),
        ("device,site,site\na,x,y\n", "two columns"),
        ("device,site\na,lyon\nb c,lyon\n", "line 3: \"b c\""),
        ("device,site\na,ly on\n", "line 2: site=ly on"),
        ("device,labels\na,site\n", "line 2: \"site\" is not KEY=VALUE"),
        ("device,site,labels\na,lyon,site=oslo\n", "line 2: the label site is both"),
        ("device\na\nb\na\n", "line 4: a is on an earlier line too"),
        ("device,site\na\n", "this is no CSV"),
        ("device,site\r\na,lyon\r\nb,Lyon Nord\r\n", "line 3: site=Lyon Nord"),
        ("device,labels\na,\"os=deb12,site=lyo", "line 2: a quote is opened and not closed"),
        ("device,labels\na,\"a=1\"b\n", "line 2: 'b' follows a quote"),
    ] {
        let error = parsed(text).expect_err(text);
        assert!(error.contains(message), "{text:?}: {error}");
    }
}
