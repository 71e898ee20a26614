//! Cases that other decoders get wrong, each explained in a line and cut at every position; and
//! what the decoder promises beyond events: its limit, its memory, what to send on a reconnect.

mod support;

use bellwire_sse::{DecodeError, Decoder, Item, OwnedItem};
use support::{Decoded, decode_all, decode_all_owned};

/// Decodes a stream whole, bytewise and cut at every position, and returns the common result.
fn decode_however_cut(stream: &[u8]) -> Decoded {
    let decoder = || Decoder::builder().comments(true).build();
    let whole = decode_all(decoder(), [stream]).untimed();
    assert_eq!(decode_all_owned(decoder(), stream.chunks(1)).untimed(), whole, "bytewise, owned");
    for at in 0..=stream.len() {
        let (a, b) = stream.split_at(at);
        assert_eq!(decode_all(decoder(), [a, b]).untimed(), whole, "cut at {at} of {stream:?}");
    }
    whole
}

/// The data of each event, however the stream is cut.
fn data_of(stream: &[u8]) -> Vec<String> {
    decode_however_cut(stream).events.into_iter().map(|(_, data, _)| data).collect()
}

#[test]
fn a_byte_order_mark_is_dropped_once_and_only_at_the_start() {
    assert_eq!(data_of(b"\xEF\xBB\xBFdata: a\n\n"), ["a"]);
    assert_eq!(data_of(b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\ndata: b\n\n"), ["b"]);
    assert_eq!(data_of(b"\n\xEF\xBB\xBFdata: a\n\ndata: b\n\n"), ["b"]);
    assert_eq!(data_of(b"data: \xEF\xBB\xBFa\n\n"), ["\u{FEFF}a"]);
}

#[test]
fn half_a_byte_order_mark_is_part_of_a_field_name() {
    assert_eq!(data_of(b"\xEF\xBBdata: a\ndata: b\n\n"), ["b"]);
    assert_eq!(data_of(b"\xEF\ndata: b\n\n"), ["b"]);
    assert_eq!(data_of(b"\xEF\xBB\r\n\r\ndata: b\n\n"), ["b"]);
    assert_eq!(data_of(b"\xEF\xEF\xBB\xBFdata: a\n\ndata: b\n\n"), ["b"]);
}

#[test]
fn every_line_end_ends_a_line_also_when_mixed() {
    assert_eq!(data_of(b"data: a\rdata: b\ndata: c\r\ndata: d\r\r"), ["a\nb\nc\nd"]);
    assert_eq!(data_of(b"data: a\n\rdata: b\r\n\r\n"), ["a", "b"]);
    assert_eq!(data_of(b"data: a\r\n\rdata: b\r\n\ndata: c\r\r\n"), ["a", "b", "c"]);
}

#[test]
fn an_event_is_out_at_the_cr_of_its_blank_line() {
    for stream in [&b"data: a\r\r"[..], b"data: a\n\r", b"data: a\r\n\r"] {
        let decoded = decode_all(Decoder::new(), stream.chunks(1));
        let after = decoded.events_after_chunk;
        assert_eq!(after[after.len() - 2..], [0, 1], "{stream:?}");
    }
    // The LF that arrives later does not end a line of its own.
    assert_eq!(data_of(b"data: a\r\n\r\n\ndata: b\r\r\n"), ["a", "b"]);
}

#[test]
fn a_comment_is_out_at_the_end_of_its_line_and_parts_no_block() {
    let decoded = decode_however_cut(b"id: 1\ndata: a\n:  c\xFF\r\ndata: b\nevent: e\n:\n\n");
    assert_eq!(decoded.comments, ["  c\u{FFFD}", ""]);
    assert_eq!(decoded.events, [("e".into(), "a\nb".into(), "1".into())]);
}

#[test]
fn only_known_names_in_lower_case_are_fields() {
    let stream =
        b"Data: 1\ndata : 2\n data: 3\ndatum: 4\ndata\0: 5\ndat: 6\nDATA\nid2: x\nretry\0: 1\n\n";
    assert_eq!(decode_however_cut(stream), Decoded::default());
}

#[test]
fn one_space_after_the_colon_is_dropped_and_no_more() {
    let decoded =
        decode_however_cut(b"data:a\ndata: b\ndata:  c\ndata:\td\ndata: \ndata:\ndata\n\n");
    assert_eq!(decoded.events[0].1, "a\nb\n c\n\td\n\n\n");
}

#[test]
fn id_and_retry_count_in_blocks_without_data() {
    let decoded = decode_however_cut(b"id: 7\nretry: 10\n\ndata: a\n\nid: 8\n\n");
    assert_eq!(decoded.events, [("message".into(), "a".into(), "7".into())]);
    assert_eq!((decoded.last_event_id.as_str(), decoded.retry_ms), ("8", Some(10)));
    // A name alone is no event, and is forgotten.
    assert_eq!(decode_however_cut(b"event: e\n\ndata: a\n\n").events[0].0, "message");
}

#[test]
fn the_last_name_of_a_block_counts_even_if_it_is_empty() {
    assert_eq!(decode_however_cut(b"event: a\nevent: b\ndata\n\n").events[0].0, "b");
    assert_eq!(decode_however_cut(b"event: a\nevent\ndata\n\n").events[0].0, "message");
}

#[test]
fn an_id_counts_at_the_blank_line_and_not_before() {
    let decoded = decode_however_cut(b"id: 1\ndata: a\n\nid: 2\ndata: b\n");
    assert_eq!(decoded.last_event_id, "1");
}

#[test]
fn an_id_with_nul_leaves_the_one_before_it() {
    let decoded = decode_however_cut(b"id: 1\nid: 2\0\ndata: a\n\nid: \0\ndata: b\n\n");
    assert_eq!(decoded.events[0].2, "1");
    assert_eq!(decoded.events[1].2, "1");
}

#[test]
fn retry_is_digits_and_nothing_else() {
    for (line, expected) in [
        ("retry: 3000", Some(3000)),
        ("retry:3000", Some(3000)),
        ("retry: 0", Some(0)),
        ("retry: 007", Some(7)),
        ("retry: 18446744073709551615", Some(u64::MAX)),
        ("retry: 18446744073709551616", Some(u64::MAX)),
        ("retry: 999999999999999999999999999999999999999999", Some(u64::MAX)),
        ("retry:  3000", None),
        ("retry: 3000 ", None),
        ("retry: +5", None),
        ("retry: -5", None),
        ("retry: 1e3", None),
        ("retry: 1.5", None),
        ("retry: 0x10", None),
        ("retry: \u{0663}", None),
        ("retry:", None),
        ("retry", None),
    ] {
        let decoded = decode_however_cut(format!("{line}\n").as_bytes());
        assert_eq!(decoded.retry_ms, expected, "{line}");
    }
}

#[test]
fn invalid_utf_8_is_repaired_as_a_whole_stream_would_be() {
    let values: [&[u8]; 12] = [
        b"\xFF",
        b"a\x80b",
        b"\xC0\x80",
        b"\xE2\x82",
        b"\xE2\x82x",
        b"\xE2\x28\xA1",
        b"\xED\xA0\x80",
        b"\xF0\x9F\x92",
        b"\xF0\x9F\x92\xF0\x9F\x92\xA9",
        b"\xF4\x90\x80\x80",
        b"\xF8\x88\x80\x80\x80",
        b"\xE2\x82\xE2\x82\xAC",
    ];
    for value in values {
        let text = String::from_utf8_lossy(value).into_owned();
        let stream = [
            b"event: ",
            value,
            b"\nid: ",
            value,
            b"\ndata: ",
            value,
            b"\ndata:",
            value,
            b"\n:",
            value,
            b"\n\n",
        ];
        let decoded = decode_however_cut(&stream.concat());
        let data = format!("{text}\n{text}");
        assert_eq!(decoded.events, [(text.clone(), data, text.clone())], "{value:?}");
        assert_eq!(decoded.comments, [text]);
    }
}

#[test]
fn a_broken_field_name_is_an_unknown_one() {
    assert_eq!(data_of(b"da\xFFta: a\n\xFF: b\ndata\xE2\x82: c\ndata: d\n\n"), ["d"]);
}

/// Long lines go through the decoder by 4 KiB; nothing may show at the seams.
#[test]
fn a_long_line_has_no_seams() {
    for line_end in ["\n", "\r", "\r\n"] {
        for len in 4080..4110 {
            let text = format!("{}€豆腐\u{10FFFF}{}", "x".repeat(len), "y".repeat(5000));
            let stream = format!(
                "data: {text}{line_end}id: {len}{line_end}{line_end}data: z{line_end}{line_end}"
            );
            let expected = naive_events(&text, len);
            for chunk_bytes in [1, 6, 4095, 4096, 4097, 8192, 1 << 20] {
                let decoded = decode_all(Decoder::new(), stream.as_bytes().chunks(chunk_bytes));
                assert_eq!(decoded.events, expected, "{len} and {line_end:?} by {chunk_bytes}");
            }
        }
    }
}

fn naive_events(text: &str, id: usize) -> Vec<(String, String, String)> {
    let id = id.to_string();
    vec![("message".into(), text.into(), id.clone()), ("message".into(), "z".into(), id)]
}

#[test]
fn an_event_within_one_chunk_is_not_copied() {
    let stream = b"event: e\ndata: hello\n\n".to_vec();
    let mut decoder = Decoder::new();
    let mut chunk = &b"\n"[..];
    assert_eq!(decoder.decode(&mut chunk), Ok(None));
    let mut chunk = &stream[..];
    let Ok(Some(Item::Event(event))) = decoder.decode(&mut chunk) else {
        panic!("there is an event");
    };
    let within = |text: &str| stream.as_ptr_range().contains(&text.as_ptr());
    assert!(within(event.data()) && within(event.name()), "both are slices of the chunk");
}

#[test]
fn an_event_over_the_limit_is_one_error_and_skipped_with_its_id() {
    // "id: 2" counts 2 bytes, each "data: xxxx" 5.
    let stream = b"id: 1\ndata: a\n\nid: 2\ndata: xxxx\ndata: xxxx\nretry: 5\n:c\n\ndata: b\n\n";
    for limit_bytes in [11, 10, 7, 6] {
        for chunk_bytes in 1..=stream.len() {
            let decoder = Decoder::builder().limit_bytes(limit_bytes).build();
            let decoded = decode_all(decoder, stream.chunks(chunk_bytes));
            let too_large = usize::from(limit_bytes < 12);
            assert_eq!(decoded.too_large, too_large, "limit {limit_bytes} by {chunk_bytes}");
            let events: Vec<_> =
                decoded.events.iter().map(|(_, data, id)| (&**data, &**id)).collect();
            assert_eq!(events, [("a", "1"), ("b", "1")], "limit {limit_bytes} by {chunk_bytes}");
        }
    }
    let decoded = decode_all(Decoder::builder().limit_bytes(12).build(), [&stream[..]]);
    assert_eq!((decoded.too_large, decoded.events.len()), (0, 3), "at the limit all is well");
}

#[test]
fn the_error_names_the_limit() {
    let mut decoder = Decoder::builder().limit_bytes(3).build();
    let mut chunk = &b"data: four\n\n"[..];
    let error = decoder.decode(&mut chunk).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { limit_bytes: 3 });
    assert!(error.to_string().contains("3 bytes"), "{error}");
    assert_eq!(decoder.decode(&mut chunk), Ok(None));
}

#[test]
fn what_means_nothing_has_no_limit() {
    let long = "x".repeat(10_000);
    let stream = format!(":{long}\n{long}\n{long}: y\nretry: {}\ndata: a\n\n", "0".repeat(10_000));
    for chunk_bytes in [1, 100, 100_000] {
        let decoder = Decoder::builder().limit_bytes(2).build();
        let decoded = decode_all(decoder, stream.as_bytes().chunks(chunk_bytes));
        assert_eq!((decoded.too_large, decoded.events.len(), decoded.retry_ms), (0, 1, Some(0)));
    }
}

#[test]
fn a_comment_over_the_limit_does_not_affect_its_block() {
    let stream = b"id: 1\n:12345\ndata: a\n\n";
    for chunk_bytes in 1..=stream.len() {
        let decoder = Decoder::builder().comments(true).limit_bytes(4).build();
        let decoded = decode_all(decoder, stream.chunks(chunk_bytes));
        assert_eq!((decoded.too_large, decoded.comments.len()), (1, 0), "by {chunk_bytes}");
        assert_eq!(decoded.events, [("message".into(), "a".into(), "1".into())]);
    }
}

#[test]
fn a_reconnect_drops_the_unfinished_block_but_not_id_and_retry() {
    for unfinished in
        ["data: b", "data: b\n", "id: 2\n", "event: e\r", "dat", ":", "\u{FEFF}data: b\r"]
    {
        let mut decoder = Decoder::new();
        let stream = format!("id: 1\nretry: 9\ndata: a\n\n{unfinished}");
        let mut chunk = stream.as_bytes();
        while decoder.decode(&mut chunk).unwrap().is_some() {}
        decoder.reconnected();
        let decoded = decode_all(decoder, [&b"\xEF\xBB\xBF\ndata: c\n\n"[..]]);
        assert_eq!(decoded.events, [("message".into(), "c".into(), "1".into())], "{unfinished:?}");
        assert_eq!((&*decoded.last_event_id, decoded.retry_ms), ("1", Some(9)));
    }
}

#[test]
fn a_reconnect_sends_the_last_id_that_a_header_can_carry() {
    let mut decoder = Decoder::builder().last_event_id("0").build();
    assert_eq!(decoder.header_id(), Some("0"));
    for (stream, last, header) in [
        ("id: 1\n\n", "1", Some("1")),
        ("id: 2\u{1}\n\n", "2\u{1}", Some("1")),
        ("id: 3\u{7F}\n\n", "3\u{7F}", Some("1")),
        ("id: 4\t€\n\n", "4\t€", Some("4\t€")),
        ("id\n\n", "", None),
        ("id: \u{1B}\n\n", "\u{1B}", None),
        ("id: 5\n\n", "5", Some("5")),
    ] {
        let mut chunk = stream.as_bytes();
        assert_eq!(decoder.decode_owned(&mut chunk), Ok(None));
        assert_eq!((decoder.last_event_id(), decoder.header_id()), (last, header), "{stream:?}");
    }
}

#[test]
fn a_caller_may_stop_in_the_middle_of_a_chunk() {
    let mut decoder = Decoder::new();
    let stream = b"data: a\n\ndata: b\n\ndata: c";
    let mut chunk = &stream[..];
    let Ok(Some(OwnedItem::Event(event))) = decoder.decode_owned(&mut chunk) else {
        panic!("there is an event");
    };
    assert_eq!((event.data(), chunk), ("a", &b"data: b\n\ndata: c"[..]));
    assert_eq!(decode_all(decoder, [chunk, b"\n\n"]).events_after_chunk, [1, 2]);
}

#[test]
fn a_large_event_is_given_away_whole() {
    let data = "0123456789abcdef".repeat(1 << 17);
    let stream = format!("id: 1\nevent: big\ndata: {data}\n\ndata: small\n\n");
    for chunk_bytes in [4096, 100_000, usize::MAX] {
        let decoded = decode_all_owned(Decoder::new(), stream.as_bytes().chunks(chunk_bytes));
        assert!(decoded.events[0] == ("big".into(), data.clone(), "1".into()), "by {chunk_bytes}");
        assert_eq!(decoded.events[1], ("message".into(), "small".into(), "1".into()));
    }
}

#[test]
fn an_own_id_is_distinguished_from_an_inherited_one_wherever_chunks_end() {
    let stream: &[u8] =
        b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\nid: x\0\ndata: d\n\nid: 2\n\ndata: e\n\n";
    let expected = [("a", true), ("b", false), ("c", true), ("d", false), ("e", false)];
    for chunk_bytes in 1..=stream.len() {
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        for mut chunk in stream.chunks(chunk_bytes) {
            while let Some(item) = decoder.decode_owned(&mut chunk).unwrap() {
                let OwnedItem::Event(event) = item else { panic!("no comments were asked for") };
                seen.push((event.into_data(), decoder.event_has_id()));
            }
            assert!(!decoder.event_has_id(), "no event was just given");
        }
        let seen: Vec<_> = seen.iter().map(|(data, own)| (data.as_str(), *own)).collect();
        assert_eq!(seen, expected, "in chunks of {chunk_bytes}");
    }
}
