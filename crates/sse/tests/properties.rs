//! Properties of the codec on random streams: against the naive decoder, against itself in other
//! chunks, and through the encoder and back.

#[path = "support/naive.rs"]
mod naive;
mod support;

use bellwire_sse::{Decoder, Encoder, EventId, EventName, LineEnd};
use proptest::{collection::vec, prelude::*, sample::select};
use support::{decode_all, decode_all_owned};

/// Pieces of streams, likely to meet in ways that matter.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let significant: Vec<&[u8]> = vec![
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b":",
        b": ",
        b"data",
        b"data:",
        b"data: ",
        b"data:  ",
        b"dat",
        b"datax",
        b"event",
        b"event: ",
        b"event:",
        b"id",
        b"id: ",
        b"id:",
        b"retry",
        b"retry: ",
        b"retry: 30",
        b"0",
        b"9",
        b"+5",
        b" ",
        b"\t",
        b"\0",
        b"\x01",
        b"\x7F",
        b"x",
        b"other: ",
        b"\xEF",
        b"\xBB",
        b"\xBF",
        b"\xEF\xBB\xBF",
        b"\xE2\x82\xAC",
        b"\xE2\x82",
        b"\xE2",
        b"\xF0\x9F\x92\xA9",
        b"\xF0\x9F",
        b"\xED\xA0\x80",
        b"\xC0\x80",
        b"\xF4\x90\x80\x80",
        b"\x80",
        b"\xFF",
        b"\xC3",
        b"retry: 18446744073709551615",
        b"retry: 99999999999999999999999",
    ];
    prop_oneof![
        8 => select(significant).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..6),
        1 => "[a-z€豆]{0,80}".prop_map(String::into_bytes),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    vec(fragment(), 0..60).prop_map(|fragments| fragments.concat())
}

/// Cuts a stream into chunks of the given lengths, again and again.
fn cut<'a>(stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    let mut rest = stream;
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(length.min(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks
}

/// Lengths of chunks, some of them nothing, but not all.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    vec(0_usize..40, 1..8).prop_filter("some byte must come", |l| l.iter().any(|n| *n > 0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Events, comments, id and retry are those of the naive decoder, in whatever chunks.
    #[test]
    fn it_agrees_with_the_naive_decoder(
        stream in stream(),
        lengths in lengths(),
        initial_id in "[a-z]{0,3}",
    ) {
        let expected = naive::interpret(&stream, &initial_id);
        let decoder = || Decoder::builder().comments(true).last_event_id(&*initial_id).build();
        let whole = decode_all(decoder(), [&stream[..]]).untimed();
        prop_assert_eq!(&whole, &expected, "whole");
        let pieces = decode_all(decoder(), cut(&stream, &lengths)).untimed();
        prop_assert_eq!(&pieces, &expected, "cut by {:?}", lengths);
        let bytewise = decode_all(decoder(), stream.chunks(1)).untimed();
        prop_assert_eq!(&bytewise, &expected, "bytewise");
        let owned = decode_all_owned(decoder(), cut(&stream, &lengths)).untimed();
        prop_assert_eq!(&owned, &expected, "owned, cut by {:?}", lengths);
        let mute = decode_all(Decoder::builder().last_event_id(&*initial_id).build(), cut(&stream, &lengths));
        prop_assert_eq!(&mute.events, &expected.events, "without comments");
        prop_assert!(mute.comments.is_empty());
    }

    /// What exceeds the limit does not depend on the chunks, and neither does the number of errors.
    #[test]
    fn the_limit_does_not_depend_on_chunks(
        stream in stream(),
        lengths in lengths(),
        limit_bytes in 0_usize..40,
    ) {
        let decoder = || Decoder::builder().comments(true).limit_bytes(limit_bytes).build();
        let whole = decode_all(decoder(), [&stream[..]]).untimed();
        let pieces = decode_all(decoder(), cut(&stream, &lengths)).untimed();
        prop_assert_eq!(&pieces, &whole, "limit {}, cut by {:?}", limit_bytes, lengths);
        let bytewise = decode_all_owned(decoder(), stream.chunks(1)).untimed();
        prop_assert_eq!(&bytewise, &whole, "limit {}, bytewise", limit_bytes);
    }

    /// The start of a stream has no effect after a reconnect, except for the id.
    #[test]
    fn a_reconnect_starts_again_with_the_id(before in stream(), after in stream()) {
        let mut decoder = Decoder::builder().comments(true).build();
        let mut chunk = &before[..];
        while decoder.decode(&mut chunk).unwrap().is_some() {}
        decoder.reconnected();
        let id = decoder.last_event_id().to_owned();
        let retry_ms = decoder.retry_ms();
        let mut expected = naive::interpret(&after, &id);
        expected.retry_ms = expected.retry_ms.or(retry_ms);
        prop_assert_eq!(decode_all(decoder, [&after[..]]).untimed(), expected);
    }

    /// Whatever is encoded arrives, as one event and nothing else: line ends become LF.
    #[test]
    fn what_is_encoded_is_decoded(
        data in hostile_text(),
        name in hostile_text(),
        id in hostile_text(),
        comment in hostile_text(),
        retry_ms in any::<Option<u64>>(),
        crlf in any::<bool>(),
        lengths in lengths(),
    ) {
        let name = EventName::new(name.replace(['\r', '\n'], "")).unwrap();
        let id = EventId::new(id.replace(['\r', '\n', '\0'], "")).unwrap();
        let line_end = if crlf { LineEnd::CrLf } else { LineEnd::Lf };
        let mut out = Vec::new();
        let mut encoder = Encoder::with_line_end(&mut out, line_end);
        encoder.comment(&comment).event(&name).id(&id);
        if let Some(retry_ms) = retry_ms {
            encoder.retry(retry_ms);
        }
        encoder.data(&data).end();

        let decoded = decode_all(Decoder::builder().comments(true).build(), cut(&out, &lengths));
        let name = if name.as_str().is_empty() { "message" } else { name.as_str() };
        prop_assert_eq!(decoded.events, [(name.to_owned(), as_lf(&data), id.to_string())]);
        prop_assert_eq!(decoded.retry_ms, retry_ms);
        let comments: Vec<String> = as_lf(&comment).split('\n').map(|l| format!(" {l}")).collect();
        prop_assert_eq!(decoded.comments, comments);
    }

    /// A value that could break out of its line is refused, and no other.
    #[test]
    fn ids_and_names_are_refused_for_line_ends_alone(text in hostile_text()) {
        let line_end = text.contains(['\r', '\n']);
        prop_assert_eq!(EventName::new(text.as_str()).is_err(), line_end);
        prop_assert_eq!(EventId::new(text.as_str()).is_err(), line_end || text.contains('\0'));
    }
}

/// Text that tries to be more than text.
fn hostile_text() -> impl Strategy<Value = String> {
    let significant = [
        "\r", "\n", "\r\n", "\n\n", "data: x", "id: 1", "event: y", "retry: 1", ":", " ", "  ",
        "\0", "\u{FEFF}", "\u{FFFD}", "\u{2028}", "\u{85}", "€", "a",
    ];
    let fragment =
        prop_oneof![4 => select(significant.to_vec()).prop_map(String::from), 1 => any::<String>()];
    vec(fragment, 0..8).prop_map(|fragments| fragments.concat())
}

fn as_lf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}
