//! The bytes that the encoder writes: the orders and line ends that Bellwire's streams promise.

use bellwire_sse::{Encoder, EventId, EventName, LineEnd};

fn encoded(write: impl FnOnce(&mut Encoder<'_>)) -> String {
    let mut out = Vec::new();
    write(&mut Encoder::new(&mut out));
    String::from_utf8(out).expect("UTF-8 in, UTF-8 out")
}

#[test]
fn a_device_stream_has_event_id_retry_data_and_lf() {
    let text = encoded(|encoder| {
        encoder.event(&EventName::new("command").unwrap()).id(&EventId::from(1042));
        encoder.retry(2000).data("{}").end();
    });
    assert_eq!(text, "event: command\nid: 1042\nretry: 2000\ndata: {}\n\n");
}

#[test]
fn a_classic_stream_has_id_retry_event_data_and_crlf() {
    let mut out = Vec::new();
    Encoder::with_line_end(&mut out, LineEnd::CrLf)
        .id(&EventId::from(0))
        .retry(5)
        .event(&EventName::new("ping").unwrap())
        .data("a\rb\r\n")
        .end();
    assert_eq!(out, b"id: 0\r\nretry: 5\r\nevent: ping\r\ndata: a\r\ndata: b\r\ndata: \r\n\r\n");
}

#[test]
fn empty_data_survives_and_each_line_end_is_one() {
    for (data, lines) in [
        ("", "data: \n"),
        ("a", "data: a\n"),
        ("a\n", "data: a\ndata: \n"),
        ("a\r\nb", "data: a\ndata: b\n"),
        ("a\n\rb", "data: a\ndata: \ndata: b\n"),
        ("\r\r\n\n", "data: \ndata: \ndata: \ndata: \n"),
        (" a", "data:  a\n"),
    ] {
        assert_eq!(encoded(|encoder| _ = encoder.data(data)), lines, "{data:?}");
    }
}

#[test]
fn a_comment_cannot_become_a_field() {
    let text = encoded(|encoder| encoder.comment("1700000000000\rdata: x").end());
    assert_eq!(text, ": 1700000000000\n: data: x\n\n");
}

#[test]
fn retry_has_all_its_digits() {
    for retry_ms in [0, 9, 10, 2000, u64::MAX] {
        assert_eq!(encoded(|encoder| _ = encoder.retry(retry_ms)), format!("retry: {retry_ms}\n"));
    }
}

#[test]
fn a_refused_value_is_reported_with_the_position() {
    let error = EventId::new("a€\0").unwrap_err();
    assert_eq!(error.to_string(), r"character '\0' at byte 4 is not allowed here");
    assert_eq!("a b".parse::<EventName>().unwrap().to_string(), "a b");
}
