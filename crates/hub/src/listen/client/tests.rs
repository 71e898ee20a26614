//! Who is believed about addresses, and what.

use super::*;

fn client(rules: &ListenerRules, peer: &str, fields: &[(&'static str, &str)]) -> String {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    rules.client(peer.parse().unwrap(), &headers).to_string()
}

fn trusting(proxies: &str) -> ListenerRules {
    ListenerRules { trusted_proxies: proxies.parse().unwrap(), ..ListenerRules::default() }
}

#[test]
fn a_client_that_is_no_trusted_proxy_is_not_believed() {
    let fields = [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1")];
    assert_eq!(client(&ListenerRules::default(), "10.0.0.1", &fields), "10.0.0.1");
    assert_eq!(client(&trusting("10.0.0.2"), "10.0.0.1", &fields), "10.0.0.1");
    assert_eq!(client(&trusting("10.0.0.0/8"), "::ffff:10.0.0.1", &fields), "192.0.2.1");
}

/// The list is read from its end: what the client itself wrote is not reached.
#[test]
fn what_a_client_wrote_before_its_proxy_appended_to_it_changes_nothing() {
    let rules = trusting("10.0.0.0/8, 2001:db8::/32");
    for (value, expected) in [
        ("203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1, 10.9.9.9", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1:4711 ,,[2001:db8::7]:80", "192.0.2.1"),
        // All are proxies: the first of them.
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
        // No more is known than that proxy's address.
        ("192.0.2.1, unknown", "10.0.0.1"),
        ("192.0.2.1, evil, 10.2.2.2", "10.2.2.2"),
        ("\", 192.0.2.1", "192.0.2.1"),
        ("", "10.0.0.1"),
    ] {
        assert_eq!(client(&rules, "10.0.0.1", &[("x-forwarded-for", value)]), expected, "{value}");
    }
    let lines = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "192.0.2.1, 10.2.2.2")];
    assert_eq!(
        client(&rules, "10.0.0.1", &lines),
        "192.0.2.1",
        "of several lines the last is newer"
    );
}

#[test]
fn forwarded_is_read_by_its_grammar() {
    let rules = trusting("10.0.0.1");
    for (value, expected) in [
        ("for=192.0.2.1;proto=https;by=10.0.0.1", "192.0.2.1"),
        ("For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
        ("for=203.0.113.9, For=\"192.0.2.1:80\";host=\"a,b;for=1.1.1.1\"", "192.0.2.1"),
        ("for=192.0.2.1, for=_hidden", "10.0.0.1"),
        ("for=192.0.2.1, for=unknown", "10.0.0.1"),
        ("for=192.0.2.1;for=203.0.113.9", "10.0.0.1"),
        ("by=192.0.2.1", "10.0.0.1"),
        ("for=\"192.0.2.1", "10.0.0.1"),
        // A quote that the client left open.
        ("for=\"x, for=192.0.2.1", "192.0.2.1"),
        ("for=\"x\\, for=\"[2001:db8::2]\"", "2001:db8::2"),
    ] {
        assert_eq!(client(&rules, "10.0.0.1", &[("forwarded", value)]), expected, "{value}");
    }
}

/// A proxy that maintains one of the fields passes on what a client wrote into the other.
#[test]
fn of_both_fields_the_one_counts_that_is_set_or_else_x_forwarded_for() {
    let mut rules = trusting("10.0.0.1");
    let both = [("forwarded", "for=192.0.2.2"), ("x-forwarded-for", "192.0.2.1")];
    assert_eq!(client(&rules, "10.0.0.1", &both), "192.0.2.1");
    rules.forwarded = Some(ForwardedHeader::Forwarded);
    assert_eq!(client(&rules, "10.0.0.1", &both), "192.0.2.2");
    assert_eq!(client(&rules, "10.0.0.1", &both[1..]), "10.0.0.1");
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&V2_SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
}

async fn read(bytes: &[u8]) -> io::Result<(Option<String>, Vec<u8>)> {
    let mut stream = bytes;
    let client = read_proxy_header(&mut stream).await?;
    Ok((client.map(|client| client.to_string()), stream.to_vec()))
}

#[tokio::test]
async fn a_header_of_the_proxy_protocol_is_read_and_nothing_behind_it() {
    let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 16], &[0, 1, 0, 2]].concat();
    // With a TLV behind the addresses (section 2.2.7).
    let with_tlv = [&v4[..], &[0xEA, 0, 2, 1, 2]].concat();
    for (header, client) in [
        (v2(1, 0x11, &v4), Some("192.0.2.1")),
        (v2(1, 0x21, &v6), Some("2001:db8::1")),
        (v2(1, 0x11, &with_tlv), Some("192.0.2.1")),
        (v2(0, 0, &[]), None),
        (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(), Some("192.0.2.1")),
        (b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n".to_vec(), Some("2001:db8::1")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
    ] {
        let sent = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        let (named, rest) = read(&sent).await.unwrap();
        assert_eq!(named.as_deref(), client, "{header:?}");
        assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{header:?}");
    }
}

#[tokio::test]
async fn what_is_no_such_header_is_refused() {
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PROXY TCP4 evil 10.0.0.1 4711 80\r\n".to_vec(),
        [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
        v2(1, 0x11, &[192, 0, 2, 1]),
        v2(1, 0x11, &vec![0; PROXY_HEADER_BYTES_MAX]),
        v2(7, 0x11, &[0; 12]),
        b"PROX".to_vec(),
    ] {
        assert!(read(&bytes).await.is_err(), "{bytes:?}");
    }
}
