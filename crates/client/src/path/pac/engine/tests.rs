//! Scripts as administrators write them, and scripts that must not harm.

use std::net::Ipv4Addr;

use super::*;

fn resolver(name: &str) -> Vec<IpAddr> {
    match name {
        "hub.example.com" => vec![Ipv4Addr::new(198, 51, 100, 7).into()],
        "both.example.com" => {
            vec!["2001:db8::7".parse().unwrap(), Ipv4Addr::new(10, 1, 2, 3).into()]
        }
        "six.example.com" => vec!["2001:db8::7".parse().unwrap()],
        _ => Vec::new(),
    }
}

fn limits() -> Limits {
    Limits { resolver, time: Duration::from_secs(60), ..Limits::default() }
}

/// The answers of a script whose function returns this expression.
fn returned(expression: &str) -> Result<PacAnswer, PacFault> {
    let script = format!("function FindProxyForURL(url, host) {{ return {expression}; }}");
    find_proxy(&script, limits(), "https://hub.example.com/", "hub.example.com")
}

/// The text of an expression in the function.
fn value(expression: &str) -> String {
    let script = format!("function FindProxyForURL(url, host) {{ throw String({expression}); }}");
    let fault = find_proxy(&script, limits(), "https://hub.example.com/", "hub.example.com");
    match fault {
        Err(PacFault::Script { message, .. }) => message.trim_start_matches("it threw ").to_owned(),
        other => panic!("{expression}: {other:?}"),
    }
}

fn fault(script: &str, limits: Limits) -> PacFault {
    match find_proxy(script, limits, "https://hub.example.com/", "hub.example.com") {
        Err(fault) => fault,
        Ok(answer) => panic!("{script} answered {answer:?}"),
    }
}

#[test]
fn the_functions_are_there_with_their_arguments_and_results() {
    for (expression, expected) in [
        ("url + ' ' + host", "https://hub.example.com/ hub.example.com"),
        ("isPlainHostName('www')", "true"),
        ("isPlainHostName(host)", "false"),
        ("dnsDomainIs(host, '.example.com')", "true"),
        ("localHostOrDomainIs('hub', 'hub.example.com')", "true"),
        ("isResolvable(host)", "true"),
        ("isResolvable('no.example.com')", "false"),
        ("isInNet(host, '198.51.100.0', '255.255.255.0')", "true"),
        ("isInNet('both.example.com', '10.0.0.0', '255.0.0.0')", "true"),
        ("isInNet('both.example.com', '2001:db8::', 'ffff:ffff::')", "true"),
        ("isInNet('2001:db8::9', '2001:db8::', 'ffff:ffff::')", "true"),
        ("isInNet('no.example.com', '0.0.0.0', '0.0.0.0')", "false"),
        ("isInNet(dnsResolve('no.example.com'), '0.0.0.0', '0.0.0.0')", "false"),
        ("isInNetEx('six.example.com', '2001:db8::/32')", "true"),
        ("isResolvableEx('six.example.com')", "true"),
        ("dnsResolve(host)", "198.51.100.7"),
        ("dnsResolve('10.0.0.7')", "10.0.0.7"),
        ("dnsResolve('both.example.com')", "10.1.2.3"),
        ("dnsResolve('six.example.com')", "2001:db8::7"),
        ("dnsResolve('no.example.com')", "null"),
        ("dnsResolveEx('both.example.com')", "10.1.2.3;2001:db8::7"),
        ("dnsResolveEx('no.example.com') === ''", "true"),
        ("dnsDomainLevels(host)", "2"),
        ("shExpMatch(url, 'https://*.example.com/*')", "true"),
        ("/^[0-9a-f.:]+$/.test(myIpAddress())", "true"),
        ("myIpAddressEx().length > 0", "true"),
        ("weekdayRange('SUN', 'SAT')", "true"),
        (
            "weekdayRange(['SUN','MON','TUE','WED','THU','FRI','SAT'][new Date().getUTCDay()], 'GMT')",
            "true",
        ),
        ("dateRange(1, 31)", "true"),
        ("dateRange(new Date().getUTCFullYear(), 'GMT')", "true"),
        ("timeRange(0, 24)", "true"),
        ("timeRange(0, 0, 0, 23, 59, 59)", "true"),
        ("alert('hello\\nthere')", "undefined"),
        ("isInNet()", "false"),
        ("typeof FindProxyForURL", "function"),
        ("JSON.stringify(['a', 1].concat('b'.match(/b/)))", "[\"a\",1,\"b\"]"),
        ("'\u{fc}'.toUpperCase()", "\u{dc}"),
        ("eval('1 + 1')", "2"),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[test]
fn scripts_as_administrators_write_them_are_evaluated() {
    for script in [
        "function FindProxyForURL(url, host) { return 'PROXY p:1'; }",
        "var FindProxyForURL = function (url, host) { return 'PROXY p:1' }",
        "const FindProxyForURL = (url, host) => `PROXY ${'p'}:1`;",
        "<!-- hidden\nfunction FindProxyForURL(u, h) { undeclared = 'PROXY p:1'; return undeclared; }",
        "var list = ['PROXY', 'p:1']; function FindProxyForURL() { with (list) { return join(' '); } }",
    ] {
        let answer = find_proxy(script, limits(), "https://h/", "h").unwrap();
        assert_eq!(answer.entries[0].to_string(), "http://p:1", "{script}");
    }
}

#[test]
fn what_is_no_text_is_no_answer_but_null_is_no_proxy() {
    assert_eq!(returned("null").unwrap().entries[0].to_string(), "direct");
    for (expression, kind) in
        [("undefined", "undefined"), ("7", "int"), ("{}", "object"), ("[]", "array")]
    {
        let error = returned(expression).unwrap_err().to_string();
        assert!(error.contains(&format!("returned {kind} in place")), "{error}");
    }
}

#[test]
fn a_fault_names_its_line() {
    for (script, expected) in [
        ("// one\n// two\nfunction FindProxyForURL( {", "line 3: SyntaxError: "),
        (
            "\n\nfunction FindProxyForURL() {\n return nothing;\n}",
            "line 4: ReferenceError: nothing is not defined",
        ),
        ("function FindProxyForURL() {\n var ip = null;\n return ip.x }", "line 3: TypeError: "),
        ("\nthrow new Error('now')", "line 2: Error: now"),
        (
            "function FindProxyForURL() { return isInNet({ toString() { throw new Error('x\\ny'); } }) }",
            "line 1: Error: x y",
        ),
        ("function FindProxyForURL() { throw 'it' }", "it threw it"),
        ("var FindProxyForURL = 7", "no function FindProxyForURL"),
        ("", "no function FindProxyForURL"),
        (
            "function f() { return f() + 1 }\nfunction FindProxyForURL() { return f() }",
            "line 1: RangeError: ",
        ),
    ] {
        let error = fault(script, limits()).to_string();
        assert!(error.contains(expected), "{script}: {error}");
    }
    let check = check("function FindProxyForURL() {", limits()).unwrap_err();
    assert!(matches!(check, PacFault::Script { line: Some(1), .. }), "{check}");
}

#[test]
fn a_script_without_an_end_is_interrupted_at_its_line() {
    let short = Limits { time: Duration::from_millis(50), ..limits() };
    for (script, at) in [
        ("\nwhile (isPlainHostName('x')) {}", Some(2)),
        (
            "function FindProxyForURL() {\n for (;;) { try { for (;;) dnsDomainLevels(url); } catch (e) {} } }",
            Some(2),
        ),
        ("function FindProxyForURL() { return /^(a+)+$/.test('a'.repeat(40) + 'b') }", None),
        (
            "function FindProxyForURL() {\n var t = 'a'.repeat(60000), p = '*' + 'a'.repeat(500) + 'b';\n while (true) shExpMatch(t, p) }",
            Some(3),
        ),
        ("function FindProxyForURL() { [3, 1, 2].sort(function () { for (;;) {} }) }", None),
    ] {
        match fault(script, short) {
            PacFault::OutOfTime { line } => {
                assert!(at.is_none() || line == at, "{script}: {line:?}")
            }
            other => panic!("{script}: {other}"),
        }
    }
}

#[test]
fn a_script_that_fills_the_memory_ends_at_its_limit() {
    let small = Limits { memory_bytes: 4 << 20, ..limits() };
    for script in [
        "function FindProxyForURL() { var a = []; for (;;) a.push('x'.repeat(1000) + a.length) }",
        "function FindProxyForURL() { var s = 'x'; for (;;) s += s + '!'; }",
    ] {
        let fault = fault(script, small);
        let is_bounded = match &fault {
            PacFault::OutOfMemory { .. } => true,
            // The longest text of the engine.
            PacFault::Script { message, .. } => message.contains("string too long"),
            _ => false,
        };
        assert!(is_bounded, "{script}: {fault}");
    }
}

#[test]
fn a_script_of_the_greatest_length_is_evaluated_within_the_limits() {
    let mut script = String::from("function FindProxyForURL(url, host) { return 'PROXY p:1'; }\n");
    let mut n = 0;
    while script.len() < bellwire_proto::limits::PAC_BYTES_MAX - 80 {
        n += 1;
        let _ =
            writeln!(script, "if (dnsDomainIs('h{n}.example.com', '.lan')) hosts.push('h{n}');");
    }
    let answer = find_proxy(&script, limits(), "https://h/", "h").unwrap();
    assert_eq!(answer.entries[0].to_string(), "http://p:1");
}

#[test]
fn evaluations_share_nothing() {
    let script = "var calls = 0; function FindProxyForURL() { return 'PROXY p:' + ++calls }";
    for _ in 0..2 {
        let answer = find_proxy(script, limits(), "https://h/", "h").unwrap();
        assert_eq!(answer.entries[0].to_string(), "http://p:1");
    }
}
