//! The properties of the plane, by raw bytes over real sockets; the clock is moved by the tests.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the message")]

mod plane_support;

use std::io::Write;
use std::net::Shutdown;

use bellwire_hub::plane::{
    CloseReason, Frame, Framing, Heartbeat, HeartbeatForm, PlaneConfig, Receipt, StreamEvent,
    StreamId, StreamOptions,
};
use plane_support::*;

fn frame(text: &str) -> Frame {
    Frame::new(text.as_bytes())
}

fn options() -> StreamOptions {
    StreamOptions::default()
}

/// More than the kernel takes of a reader that does not read, and less than a shard's inbox holds: 64 MiB filled
/// that, unless the shard was quick, and what came behind them ended its stream.
const LARGE_BYTES: usize = 32 << 20;

#[test]
fn the_head_and_what_gathered_before_the_socket_came_leave_in_one_write() {
    let world = World::new();
    let (mut client, socket) = sockets();
    let id = world.plane.reserve(options());
    world.plane.send(id, frame("data: a\n\n"), Receipt::Buffered(1));
    world.plane.send(id, frame("data: b\n\n"), Receipt::Written(2));
    assert_eq!(world.event(), StreamEvent::Buffered { stream: id, tag: 1 });
    world.plane.attach(id, plain(socket), Framing::Chunked, "HEAD\r\n\r\n".into());
    assert_eq!(world.event(), StreamEvent::Written { stream: id, tag: 2 });
    let expected = b"HEAD\r\n\r\n9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n";
    assert_eq!(read_exactly(&mut client, expected.len()), expected);
    assert_eq!(world.plane.counts().writes, 1);
}

#[test]
fn each_event_is_one_write() {
    let world = World::new();
    let (id, mut client) = world.stream(options(), Framing::Chunked);
    for number in 0..10 {
        world.plane.send(id, frame("data: x\n\n"), Receipt::None);
        assert_eq!(read_exactly(&mut client, 14), b"9\r\ndata: x\n\n\r\n");
        world.settle();
        assert_eq!(world.plane.counts().writes, 2 + number);
    }
}

#[test]
fn frames_that_gather_leave_as_one_buffer_for_every_stream() {
    let world = World::new();
    let mut streams: Vec<_> =
        (0..3).map(|_| world.stream(options(), Framing::UntilClose)).collect();
    let ids: Vec<StreamId> = streams.iter().map(|(id, _)| *id).collect();
    world.settle();
    let before = world.plane.counts().writes;
    let hold = world.hold();
    for number in 0..10 {
        world.plane.send_many(&ids, &frame(&format!("data: {number}\n\n")));
        world.plane.send(ids[1], frame("data: own\n\n"), Receipt::None);
    }
    drop(hold);
    for (number, (_, client)) in streams.iter_mut().enumerate() {
        let own = if number == 1 { "data: own\n\n" } else { "" };
        let expected: String = (0..10).map(|number| format!("data: {number}\n\n{own}")).collect();
        let read = read_exactly(client, expected.len());
        assert_eq!(String::from_utf8(read).unwrap(), expected, "stream {number}");
    }
    world.settle();
    assert_eq!(world.plane.counts().writes - before, 3);
}

#[test]
fn a_chunked_stream_ends_with_the_last_chunk_and_a_bare_one_with_the_connection() {
    let world = World::new();
    for (framing, expected) in [
        (Framing::Chunked, "a\r\ndata: hi\n\n\r\n5\r\nbye\n\n\r\n0\r\n\r\n"),
        (Framing::UntilClose, "data: hi\n\nbye\n\n"),
    ] {
        let (id, mut client) = world.stream(options(), framing);
        world.plane.send(id, frame("data: hi\n\n"), Receipt::None);
        world.plane.close(id, Some(frame("bye\n\n")), CloseReason::Replaced);
        assert_eq!(world.event(), closed(id, CloseReason::Replaced));
        assert_eq!(read_to_end(&mut client), expected);
    }
}

#[test]
fn the_last_bytes_survive_a_client_that_still_talks() {
    let world = World::new();
    let (id, mut client) = world.stream(options(), Framing::UntilClose);
    client.write_all(&[b'x'; 1 << 20]).unwrap();
    world.plane.close(id, Some(frame("bye\n\n")), CloseReason::Draining);
    client.write_all(&[b'x'; 1 << 16]).unwrap();
    assert_eq!(read_to_end(&mut client), "bye\n\n");
}

#[test]
fn input_of_the_client_is_dropped_and_the_stream_continues() {
    let world = World::new();
    let (id, mut client) = world.stream(options(), Framing::UntilClose);
    client.write_all(&[b'x'; 4 << 20]).unwrap();
    world.plane.send(id, frame("data: hi\n\n"), Receipt::None);
    assert_eq!(read_exactly(&mut client, 10), b"data: hi\n\n");
}

#[test]
fn a_fin_from_the_client_ends_the_stream_and_is_reported_once() {
    let world = World::new();
    let (id, client) = world.stream(options(), Framing::Chunked);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(world.event(), closed(id, CloseReason::PeerClosed));
    world.plane.send(id, frame("data: late\n\n"), Receipt::Buffered(1));
    world.plane.close(id, None, CloseReason::Replaced);
    world.settle();
    assert_eq!(world.plane.counts().closed_as(CloseReason::PeerClosed), 1);
    assert_eq!(world.plane.counts().open, 0);
}

#[test]
fn a_reset_is_reported_as_one() {
    let world = World::new();
    let (id, client) = world.stream(options(), Framing::Chunked);
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(world.event(), closed(id, CloseReason::PeerReset));
}

#[test]
fn a_stale_id_has_no_effect_on_the_stream_that_has_its_slot() {
    let world = World::new();
    let old = world.plane.reserve(options());
    world.plane.close(old, None, CloseReason::Ended);
    assert_eq!(world.event(), closed(old, CloseReason::Ended));
    world.advance(11_000);
    let slot = |id: StreamId| id.get() as u32;
    let mut streams = vec![world.stream(options(), Framing::UntilClose)];
    while streams.last().is_some_and(|(id, _)| slot(*id) != slot(old)) {
        assert!(streams.len() < 100, "the slot of a closed stream is never reused");
        streams.push(world.stream(options(), Framing::UntilClose));
    }
    let (new, mut client) = streams.pop().unwrap();
    assert_ne!(old, new);
    world.plane.send(old, frame("data: wrong\n\n"), Receipt::Buffered(1));
    world.plane.send_many(&[old], &frame("data: wrong\n\n"));
    world.plane.close(old, Some(frame("wrong\n\n")), CloseReason::Replaced);
    world.plane.send(new, frame("data: right\n\n"), Receipt::None);
    assert_eq!(read_exactly(&mut client, 13), b"data: right\n\n");
    world.settle();
}

#[test]
fn a_reader_that_leaves_too_much_unread_is_ended_and_gets_all_that_was_taken() {
    let bye = "event: bye\n\n";
    let config = PlaneConfig {
        unsent_bytes_max: 1 << 20,
        overloaded_last: Some(frame(bye)),
        ..PlaneConfig::default()
    };
    let world = World::with(config);
    let (id, mut client) = world.stream(options(), Framing::UntilClose);
    let body = "x".repeat(64 * 1024);
    let mut taken = 0;
    loop {
        world.plane.send(id, frame(&body), Receipt::Buffered(taken));
        match world.event() {
            StreamEvent::Buffered { stream, tag } if (stream, tag) == (id, taken) => taken += 1,
            event => break assert_eq!(event, closed(id, CloseReason::Overloaded)),
        }
        assert!(taken < 10_000, "640 MB were taken for a reader that reads nothing");
    }
    world.plane.send(id, frame("late"), Receipt::Buffered(0));
    world.settle();
    let read = read_to_end(&mut client);
    assert_eq!(read.len(), taken as usize * body.len() + bye.len());
    assert!(read.ends_with(bye));
}

#[test]
fn readers_that_are_behind_are_ended_when_all_together_leave_too_much_unread_and_others_are_not() {
    let most = 2 << 20;
    let config = PlaneConfig { unsent_bytes_in_all_max: most, ..PlaneConfig::default() };
    let world = World::with(config);
    let behind: Vec<_> = (0..40).map(|_| world.stream(options(), Framing::UntilClose)).collect();
    let (reads, mut client) = world.stream(options(), Framing::UntilClose);
    // Less for each than one stream may have unsent. What the kernel takes of it is not counted.
    let part_bytes = 128 * 1024;
    let part = Frame::new(&vec![b'x'; part_bytes]);
    let mut sent = 0;
    while world.plane.counts().closed_as(CloseReason::Overloaded) == 0 {
        assert!(sent < 4_000, "{} bytes are unsent", world.plane.counts().unsent_bytes);
        let (id, _) = &behind[sent % behind.len()];
        world.plane.send(*id, part.clone(), Receipt::Buffered(0));
        match world.event() {
            StreamEvent::Buffered { .. } => sent += 1,
            event => assert_eq!(event, closed(*id, CloseReason::Overloaded)),
        }
        let unsent = world.plane.counts().unsent_bytes as usize;
        // Each that was up to date may have taken one more.
        assert!(unsent <= most + behind.len() * part_bytes, "{unsent} bytes");
    }
    world.plane.send(reads, frame("data: on time\n\n"), Receipt::Buffered(7));
    assert_eq!(world.event(), StreamEvent::Buffered { stream: reads, tag: 7 });
    assert_eq!(read_exactly(&mut client, 15), b"data: on time\n\n");
    for (id, client) in behind {
        drop(client);
        world.plane.close(id, None, CloseReason::Ended);
    }
    while world.plane.counts().unsent_bytes > 0 {
        world.advance(1_000);
    }
}

#[test]
fn a_shard_that_cannot_keep_up_ends_streams_and_its_memory_is_bounded() {
    let world = World::new();
    let ids: Vec<_> = (0..70).map(|_| world.plane.reserve(options())).collect();
    let megabyte = Frame::new(&[b'x'; 1 << 20]);
    let hold = world.hold();
    for &id in &ids {
        world.plane.send(id, megabyte.clone(), Receipt::Buffered(0));
    }
    drop(hold);
    for (number, &stream) in ids.iter().enumerate() {
        let expected = match number {
            0..64 => StreamEvent::Buffered { stream, tag: 0 },
            _ => closed(stream, CloseReason::Overloaded),
        };
        assert_eq!(world.event(), expected, "stream {number}, with 64 MiB waiting at most");
    }
}

#[test]
fn a_frame_of_any_size_is_taken_by_a_stream_that_is_not_behind() {
    let config = PlaneConfig { unsent_bytes_max: 1000, ..PlaneConfig::default() };
    let world = World::with(config);
    let (id, mut client) = world.stream(options(), Framing::Chunked);
    let body = "y".repeat(8 << 20);
    world.plane.send(id, frame(&body), Receipt::Buffered(1));
    assert_eq!(world.event(), StreamEvent::Buffered { stream: id, tag: 1 });
    assert_eq!(read_until(&mut client, "\r\n"), "800000\r\n");
    assert!(read_exactly(&mut client, 8 << 20).iter().all(|byte| *byte == b'y'));
}

#[test]
fn written_is_reported_when_the_reader_has_read_and_not_before() {
    let world = World::with(PlaneConfig { unsent_bytes_max: 1 << 30, ..PlaneConfig::default() });
    let (id, mut client) = world.stream(options(), Framing::UntilClose);
    world.plane.send(id, Frame::new(&vec![b'z'; LARGE_BYTES]), Receipt::Written(1));
    world.plane.send(id, frame("data: next\n\n"), Receipt::Written(2));
    world.settle();
    read_exactly(&mut client, LARGE_BYTES);
    assert_eq!(world.event(), StreamEvent::Written { stream: id, tag: 1 });
    assert_eq!(world.event(), StreamEvent::Written { stream: id, tag: 2 });
    assert_eq!(read_exactly(&mut client, 12), b"data: next\n\n");
}

#[test]
fn the_order_of_sending_is_the_order_on_the_wire() {
    let world = World::new();
    let (id, mut client) = world.stream(options(), Framing::UntilClose);
    let mut expected = String::new();
    for number in 0..2000 {
        let text = format!("data: {number} {}\n\n", "p".repeat(number % 300));
        match number % 3 {
            0 => world.plane.send_many(&[id], &frame(&text)),
            1 => world.plane.send(id, frame(&text), Receipt::None),
            _ => world.plane.send(id, frame(&text), Receipt::Written(0)),
        }
        expected.push_str(&text);
    }
    let read = read_exactly(&mut client, expected.len());
    assert!(read == expected.as_bytes(), "2000 frames came in another order than they were sent");
}

#[test]
fn a_reservation_without_a_socket_is_closed_after_its_time() {
    let world = World::new();
    let id = world.plane.reserve(options());
    world.settle();
    world.advance(9_999);
    world.settle();
    world.advance(51);
    assert_eq!(world.event(), closed(id, CloseReason::NeverAttached));
    let (mut client, socket) = sockets();
    world.plane.attach(id, plain(socket), Framing::Chunked, "HEAD".into());
    assert_eq!(read_to_end(&mut client), "");
    world.settle();
}

#[test]
fn a_stream_closed_before_its_sink_is_attached_still_sends_its_last_frame() {
    let world = World::new();
    let id = world.plane.reserve(options());
    world.plane.send(id, frame("hello\n\n"), Receipt::None);
    world.plane.close(id, Some(frame("bye\n\n")), CloseReason::Draining);
    assert_eq!(world.event(), closed(id, CloseReason::Draining));
    let (mut client, socket) = sockets();
    world.plane.attach(id, plain(socket), Framing::UntilClose, "HEAD\r\n\r\n".into());
    assert_eq!(read_to_end(&mut client), "HEAD\r\n\r\nhello\n\nbye\n\n");
    world.settle();
}

#[test]
fn heartbeats_contain_the_hubs_time_and_are_the_same_for_all() {
    let world = World::new();
    let mut clients: Vec<_> =
        (0..3).map(|_| world.stream(heartbeat(15_000), Framing::UntilClose).1).collect();
    for beat in 1..=2u64 {
        world.advance(15_000);
        let expected = format!(": {}\n\n", UNIX_MS + beat * 15_000);
        for client in &mut clients {
            assert_eq!(read_until(client, "\n\n"), expected);
        }
    }
}

#[test]
fn a_classic_heartbeat_has_its_own_form() {
    let world = World::new();
    let beat = Heartbeat { every_ms: 250, form: HeartbeatForm::Classic };
    let options = StreamOptions { heartbeat: Some(beat), ..options() };
    let (_, mut client) = world.stream(options, Framing::UntilClose);
    world.advance(250);
    assert_eq!(read_until(&mut client, "\r\n\r\n"), ": keepalive 1700000000.25\r\n\r\n");
}

#[test]
fn compat_and_probes_are_written_to_the_socket() {
    let world = World::new();
    let options = StreamOptions { compat: true, probes: true, ..heartbeat(60_000) };
    let (id, mut client) = world.stream(options, Framing::UntilClose);
    world.plane.send(id, frame("data: hi\n\n"), Receipt::None);
    assert_eq!(read_until(&mut client, "hi\n\n"), "data: hi\n\n");
    world.advance(100);
    assert_eq!(read_until(&mut client, "\n\n"), ":\n\n");
    world.advance(900);
    assert_eq!(read_until(&mut client, "\n\n"), format!(": {}\n\n", UNIX_MS + 1_000));
    world.advance(100);
    assert_eq!(read_until(&mut client, "\n\n"), ":\n\n");
}

/// A proxy that holds the last write back held `hello`, which was written alone, for a whole
/// heartbeat: only what was sent after the head was followed by a comment.
#[test]
fn compat_pushes_the_first_event_on_too() {
    let world = World::new();
    let (mut client, socket) = sockets();
    let id = world.plane.reserve(StreamOptions { compat: true, ..heartbeat(60_000) });
    world.plane.attach(id, plain(socket), Framing::UntilClose, "HEAD\r\n\r\nhello\n\n".into());
    assert_eq!(read_until(&mut client, "hello\n\n"), "HEAD\r\n\r\nhello\n\n");
    world.advance(100);
    assert_eq!(read_until(&mut client, "\n\n"), ":\n\n");
}

#[test]
fn a_silent_stream_stalls_and_any_byte_resumes_it() {
    let world = World::with(PlaneConfig { unsent_bytes_max: 1 << 30, ..PlaneConfig::default() });
    let (id, mut client) = world.stream(heartbeat(5_000), Framing::UntilClose);
    world.plane.send(id, Frame::new(&vec![b'z'; LARGE_BYTES]), Receipt::None);
    world.settle();
    world.advance(19_999);
    world.settle();
    world.advance(51);
    assert_eq!(world.event(), StreamEvent::Stalled { stream: id });
    world.advance(20_000);
    world.settle();
    client.write_all(b"\n").unwrap();
    assert_eq!(world.event(), StreamEvent::Resumed { stream: id });
}

#[test]
fn a_reader_that_is_closed_and_never_reads_is_let_go() {
    let world = World::with(PlaneConfig { unsent_bytes_max: 1 << 30, ..PlaneConfig::default() });
    let (id, mut client) = world.stream(options(), Framing::UntilClose);
    world.plane.send(id, Frame::new(&vec![b'z'; LARGE_BYTES]), Receipt::None);
    world.plane.close(id, None, CloseReason::Replaced);
    assert_eq!(world.event(), closed(id, CloseReason::Replaced));
    world.advance(5_050);
    world.settle();
    let mut read = Vec::new();
    // An end or a reset; either is right.
    let _ = std::io::Read::read_to_end(&mut client, &mut read);
    assert!(read.len() < LARGE_BYTES, "the stream lingered too long");
}

#[test]
fn shutdown_ends_every_stream_and_returns() {
    let world = World::new();
    let (id, mut client) = world.stream(options(), Framing::Chunked);
    let reserved = world.plane.reserve(options());
    let reader = std::thread::spawn(move || read_to_end(&mut client));
    world.plane.shutdown(10_000);
    assert_eq!(reader.join().unwrap(), "0\r\n\r\n");
    let mut events = [world.event(), world.event()];
    events.sort_by_key(|event| *event != closed(id, CloseReason::Shutdown));
    let expected = [id, reserved].map(|id| closed(id, CloseReason::Shutdown));
    assert_eq!(events, expected);
    world.plane.send(id, frame("late"), Receipt::Buffered(1));
    world.plane.close(world.plane.reserve(options()), None, CloseReason::Ended);
}

#[test]
fn streams_end_with_the_last_handle() {
    let world = World::new();
    let (_, mut client) = world.stream(options(), Framing::Chunked);
    drop(world);
    assert_eq!(read_to_end(&mut client), "0\r\n\r\n");
}

/// The kernel takes heartbeats for a device that has gone silently, and the stream counted as alive until they had been
/// unacknowledged for as long as its whole silence: for one heartbeat longer than the contract allows.
#[test]
fn the_kernel_gives_a_silent_peer_up_two_heartbeats_and_ten_seconds_after_its_last_byte() {
    let world = World::new();
    for (heartbeat_ms, expected_ms) in [(15_000, 25_000), (5_000, 15_000), (600_000, 610_000)] {
        let (mut client, socket) = sockets();
        let probe = socket.try_clone().unwrap();
        let id = world.plane.reserve(heartbeat(heartbeat_ms));
        world.plane.attach(id, plain(socket), Framing::Chunked, "HEAD\r\n".into());
        assert_eq!(read_exactly(&mut client, 6), b"HEAD\r\n");
        let timeout = socket2::SockRef::from(&probe).tcp_user_timeout().unwrap();
        assert_eq!(timeout.map(|timeout| timeout.as_millis()), Some(expected_ms));
    }
}
