"""The three classic programs beside the original itself: release 1.1.1 of the Python package `eventsource`, run as it is.

    bash .ci/run original

Each test is a sentence of docs/classic.md; where the original differs, the test has what it does. Standard library only.
"""

import contextlib
import http.server
import itertools
import json
import os
import queue
import ssl
import subprocess
import threading
import unittest

from programs import KINDS, PATIENCE_S, TLS, Listener, Process, Server, await_listener, client, command, exchange, request, send

RECEIVED = "INFO:eventsource.client:received "


def authority():
    context = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
    context.check_hostname = False
    return context


class BothWithBoth(unittest.TestCase):
    """Every server with every client and every request client."""

    def exchange(self, flags, request_flags, sent):
        """Sends `(data, event)` pairs through all eight combinations and compares what the client logs."""
        for server_kind, client_kind, request_kind in itertools.product(KINDS, KINDS, KINDS):
            with (
                self.subTest(server=server_kind, client=client_kind, request=request_kind),
                Server(server_kind, *flags) as server,
                client(client_kind, server, "tok") as listening,
            ):
                await_listener(server, "tok")
                for data, event in sent:
                    answer = request(request_kind, server, *request_flags, "tok", "ping", data)
                    self.assertEqual(answer, (0, "\n"), "a request prints the empty answer")
                    for _ in range(server.copies):
                        self.assertEqual(listening.line_with("received"), RECEIVED + event)

    def test_text_passes_through_every_combination(self):
        sent = [("hello", "Event<None,ping,hello>"), ("two\nlines", "Event<None,ping,two\\nlines>"), ("", "Event<None,ping,>")]
        self.exchange([], [], sent)

    def test_json_passes_through_every_combination(self):
        sent = [('{ "a":[1,2.50,null] }', 'Event<None,ping,{"a": [1, 2.5, null]}>'), ('"x"', 'Event<None,ping,"x">')]
        self.exchange(["-j"], ["-j"], sent)

    def test_ids_count_from_zero_through_every_combination(self):
        self.exchange(["-i"], [], [("a", "Event<0,ping,a>"), ("b", "Event<1,ping,b>"), ("c", "Event<2,ping,c>")])


class Servers(unittest.TestCase):
    """The bytes that the two servers write for the same requests."""

    def both(self, *flags):
        for kind in KINDS:
            with Server(kind, *flags) as server:
                yield kind, server

    def frames(self, flags, bodies):
        """The frame of each body, from both servers; the original's, without its second copy."""
        found = {}
        for kind, server in self.both(*flags):
            with Listener(server, "tok") as listener:
                found[kind] = []
                for body in bodies:
                    self.assertEqual(send(server, "ping", "tok", body)[0], 200, body)
                    frames = {listener.frame() for _ in range(server.copies)}
                    self.assertEqual(len(frames), 1, "the copies of an event are equal")
                    found[kind] += frames
        return found["original"], found["ours"]

    def test_frames_of_text_are_equal_byte_for_byte_with_ids(self):
        bodies = [b"", b"one", b"two\nlines", b"ends with one\n", b"\n", b" leads", b"a:b", b"a\tb", b"x" * 100_000]
        original, ours = self.frames(["-i"], bodies)
        self.assertEqual(original, ours)

    def test_without_ids_the_original_writes_id_none_and_ours_no_id(self):
        original, ours = self.frames([], [b"x"])
        self.assertEqual(original, [b"id: None\r\nevent: ping\r\ndata: x\r\n\r\n"])
        self.assertEqual(ours, [b"event: ping\r\ndata: x\r\n\r\n"])

    def test_the_original_divides_at_lf_alone_and_ours_at_every_line_end_of_the_standard(self):
        original, ours = self.frames(["-i"], [b"a\r\nb", b"a\rb"])
        self.assertEqual(original[0], b"id: 0\r\nevent: ping\r\ndata: a\r\r\ndata: b\r\n\r\n")
        self.assertEqual(original[1], b"id: 1\r\nevent: ping\r\ndata: a\rb\r\n\r\n")
        self.assertEqual(ours[0], b"id: 0\r\nevent: ping\r\ndata: a\r\ndata: b\r\n\r\n")
        self.assertEqual(ours[1], b"id: 1\r\nevent: ping\r\ndata: a\r\ndata: b\r\n\r\n")

    def test_json_is_written_alike(self):
        values = [
            "1", "-0", "2.50", "1e2", "1E400", "123456789012345678901234567890", "true", "null", '""', '"a/b"', '"</script>"',
            r'"\u00e9\ud83d\ude00"', '"é"', r'"\n\t\b\f\r\"\\"', "[]", "{}", '[1, [2,{"a":null}]]', "NaN", "-Infinity", "0.1",
            "1e-7", "1e16", "123456789.123456789",
        ]
        original, ours = self.frames(["-j", "-i"], [value.encode() for value in values])
        for value, theirs, own in zip(values, original, ours, strict=True):
            with self.subTest(value=value):
                self.assertEqual(theirs, own)

    def test_members_have_any_order_in_the_original_and_the_senders_in_ours(self):
        original, ours = self.frames(["-j"], [b'{"zebra":1,"ant":2,"bee":3}'])
        self.assertEqual(ours, [b'event: ping\r\ndata: {"zebra": 1, "ant": 2, "bee": 3}\r\n\r\n'])
        data = original[0].split(b"data: ")[1]
        self.assertEqual(json.loads(data), {"zebra": 1, "ant": 2, "bee": 3})

    def test_refusals_have_the_same_status_and_page(self):
        answers = {}
        for kind, server in self.both():
            with Listener(server, "tok"):
                refused = [("ping", "nobody"), ("reboot", "tok"), ("retry", "tok")]
                answers[kind] = [send(server, action, token, b"1")[::2] for action, token in refused]
        self.assertEqual(answers["original"], answers["ours"])

    def test_accept_is_in_every_answer_of_ours_and_only_in_good_ones_of_the_original(self):
        for kind, server in self.both():
            with Listener(server, "tok"):
                self.assertEqual(send(server, "ping", "tok", b"x")[1]["accept"], "text/plain")
                refusal = send(server, "ping", "nobody", b"x")[1].get("accept")
                self.assertEqual(refusal, "text/plain" if kind == "ours" else None)

    def test_what_is_not_json_is_400_in_both_with_the_reason_of_its_python(self):
        pages = {}
        for kind, server in self.both("-j"):
            with Listener(server, "tok"):
                status, _, pages[kind] = send(server, "ping", "tok", b"{")
                self.assertEqual(status, 400)
        begin = "<html><title>400: Bad Request</title><body>400: Data is not properly formatted: <br />"
        for page in pages.values():
            self.assertTrue(page.startswith(begin), page)
        self.assertIn("Expecting object: line 1 column 1 (char 0)", pages["original"])  # Python 2.7
        self.assertIn("Expecting property name enclosed in double quotes", pages["ours"])  # Python 3

    def test_a_second_listener_is_500_in_the_original_where_its_author_meant_423(self):
        statuses = {}
        for kind, server in self.both():
            with Listener(server, "tok"):
                statuses[kind] = exchange(server, b"GET /poll/tok HTTP/1.0\r\nHost: x\r\n\r\n")[::2]
        self.assertEqual(statuses["original"][0], 500)
        page = "<html><title>423: Locked</title><body>423: Target is already connected</body></html>\n"
        self.assertEqual(statuses["ours"], (423, page))

    def test_a_get_of_another_action_is_redirected_to_the_root(self):
        for _, server in self.both():
            status, fields, _ = exchange(server, b"GET /listen/tok HTTP/1.0\r\nHost: x\r\n\r\n")
            self.assertEqual((status, fields["location"]), (301, "/"))

    def test_escapes_in_a_token_are_decoded_and_the_last_slash_divides(self):
        for _, server in self.both("-i"):
            for token, sent in [("a%20b", "a%20b"), ("a%2Db", "a-b")]:
                with Listener(server, token) as listener:
                    self.assertEqual(send(server, "ping", sent, b"x")[0], 200, token)
                    self.assertIn(b"data: x", listener.frame())

    def test_keepalives_are_written_alike(self):
        for _, server in self.both("-k", "100"):
            with Listener(server, "tok") as listener:
                frames = [listener.frame() for _ in range(3)]
            for frame in frames:
                self.assertRegex(frame, rb"^: keepalive \d{10}\.\d{1,2}\r\n\r\n$")

    def test_close_ends_the_stream_without_an_event_and_frees_the_token(self):
        for _, server in self.both():
            with Listener(server, "tok") as listener:
                self.assertEqual(send(server, "close", "tok")[0], server.closed)
                self.assertNotIn(b"event:", listener.rest())
            self.assertEqual(send(server, "ping", "tok")[0], 404)
            with Listener(server, "tok") as listener:
                send(server, "ping", "tok", b"again")
                self.assertIn(b"data: again", listener.frame())

    def test_retry_precedes_the_next_event_and_in_the_original_loses_the_listener(self):
        for kind, server in self.both("-i"):
            with Listener(server, "tok") as listener:
                self.assertEqual(send(server, "retry", "tok", b"2000")[0], 200)
                self.assertEqual(send(server, "ping", "tok", b"x")[0], 200)
                if kind == "ours":
                    self.assertEqual(listener.frame(), b"id: 0\r\nretry: 2000\r\nevent: ping\r\ndata: x\r\n\r\n")
                else:
                    # No listener waits for the event any more, and nothing frees the token: `close` has no effect either.
                    self.assertEqual(send(server, "close", "tok")[0], 200)
                    self.assertEqual(send(server, "ping", "tok", b"y")[0], 200)
                    listener.socket.settimeout(0.5)  # nothing comes: there is no event to wait for
                    with self.assertRaises(TimeoutError):
                        listener.frame()

    def test_a_retry_that_is_no_number_is_an_event(self):
        original, ours = [], []
        for kind, server in self.both("-i"):
            with Listener(server, "tok") as listener:
                send(server, "retry", "tok", b"soon")
                (original if kind == "original" else ours).append(listener.frame())
        self.assertEqual((original, ours), ([b"id: 0\r\nevent: retry\r\ndata: soon\r\n\r\n"],) * 2)

    def test_other_than_ascii_kills_the_listener_of_the_original_and_passes_ours(self):
        for kind, server in self.both("-i"):
            with Listener(server, "tok") as listener:
                self.assertEqual(send(server, "ping", "tok", "é".encode())[0], 200)
                if kind == "ours":
                    self.assertEqual(listener.frame(), "id: 0\r\nevent: ping\r\ndata: é\r\n\r\n".encode())
                else:
                    server.line_with("UnicodeDecodeError")

    def test_tls_carries_the_same_frames(self):
        found = {}
        for kind, server in self.both("-i", "-K", str(TLS / "key.pem"), "-C", str(TLS / "cert.pem")):
            with Listener(server, "tok", authority()) as listener:
                self.assertEqual(send(server, "ping", "tok", b"x", authority())[0], 200)
                found[kind] = listener.frame()
        self.assertEqual(found["original"], found["ours"])

    def test_half_of_the_tls_files_is_ignored_by_the_original_and_refused_by_ours(self):
        with Server("original", "-K", str(TLS / "key.pem")) as server:
            server.line_with("SSL is disabled")
        with Process(*command("ours", "server", "-P", "0", "-K", str(TLS / "key.pem"))) as server:
            self.assertEqual(server.ends()[0], 2)


class Clients(unittest.TestCase):
    """What the two clients and the two request clients send and do."""

    def test_clients_reconnect_after_close_by_default(self):
        for server_kind, kind in itertools.product(KINDS, KINDS):
            with (
                self.subTest(server=server_kind, client=kind),
                Server(server_kind) as server,
                client(kind, server, "tok") as listening,
            ):
                await_listener(server, "tok")
                self.assertEqual(send(server, "close", "tok")[0], server.closed)
                await_listener(server, "tok")
                send(server, "ping", "tok", b"again")
                self.assertEqual(listening.line_with("received"), RECEIVED + "Event<None,ping,again>")

    def test_clients_take_the_servers_retry(self):
        for kind in KINDS:
            with self.subTest(client=kind), Server("ours", "-i") as server, client(kind, server, "tok") as listening:
                await_listener(server, "tok")
                send(server, "retry", "tok", b"250")
                send(server, "ping", "tok", b"x")
                if kind == "original":
                    listening.line_with("INFO:eventsource.client:timeout reset:")
                listening.line_with(RECEIVED + "Event<0,ping,x>")

    def test_clients_without_a_server_end_with_0_and_with_k_go_on(self):
        for kind in KINDS:
            with self.subTest(client=kind):
                with Server("ours") as gone:
                    pass
                with client(kind, gone, "tok") as ending:
                    code, lines = ending.ends()
                    self.assertEqual((code, len(lines) >= 1), (0, True), lines)
                with client(kind, gone, "-k", "-r", "100", "tok") as going:
                    for _ in range(3):
                        going.line_with("ERROR:" if kind == "original" else "WARNING:")

    def test_clients_end_at_the_refusal_of_a_second_listener_of_ours(self):
        for kind in KINDS:
            with self.subTest(client=kind), Server("ours") as server, Listener(server, "tok"), client(kind, server, "tok") as second:
                code, lines = second.ends()
                self.assertEqual(code, 0)
                # The original takes the page of the refusal for an event, and says so.
                self.assertIn("Unknown field" if kind == "original" else "423", " ".join(lines))

    def test_clients_send_the_same_request(self):
        heads = {kind: self.head_of(kind, "-u", "user", "-p", "word", "-a", "listen", "tok") for kind in KINDS}
        for name in ("accept", "authorization"):
            self.assertEqual(heads["original"][1][name], heads["ours"][1][name])
        self.assertEqual({head[0] for head in heads.values()}, {"/listen/tok"})

    def test_only_ours_has_a_prefix(self):
        with Process(*command("original", "client", "-x", "p", "tok")) as refused:
            self.assertEqual(refused.ends()[0], 2)
        self.assertEqual(self.head_of("ours", "-x", "p", "tok")[0], "/p/poll/tok")

    def test_clients_reconnect_with_the_last_id(self):
        for kind in KINDS:
            with self.subTest(client=kind):
                body = "id: 7\r\nevent: ping\r\ndata: x\r\n\r\n"
                heads = self.heads(2, kind, body, "tok")
                self.assertNotIn("last-event-id", heads[0][1])
                self.assertEqual(heads[1][1]["last-event-id"], "7")

    def test_request_clients_post_the_same_body_and_only_ours_calls_text_text(self):
        for flags, sent in [([], "a b\nc"), (["-j"], '{"a":[1,2]}')]:
            theirs, own = (self.post_of(kind, *flags, "tok", "ping", sent) for kind in KINDS)
            self.assertEqual(theirs[::2], own[::2])
            text = ("application/x-www-form-urlencoded", "text/plain; charset=utf-8")
            self.assertEqual((theirs[1], own[1]), ("application/json",) * 2 if flags else text)

    def test_request_clients_print_the_same_refusal_and_exit_with_1(self):
        for server_kind in KINDS:
            with self.subTest(server=server_kind), Server(server_kind) as server:
                answers = [request(kind, server, "nobody", "ping", "x") for kind in KINDS]
                self.assertEqual(answers[0], answers[1])
                self.assertEqual(answers[0][0], 1)

    def test_request_clients_without_a_server_exit_with_1(self):
        with Server("ours") as gone:
            pass
        for kind in KINDS:
            self.assertEqual(request(kind, gone, "tok", "ping", "x")[0], 1, kind)
            self.assertEqual(request(kind, gone, "-j", "tok", "ping", "{")[0], 1, kind)

    def test_over_tls_the_original_checks_the_certificate_whatever_v_says_and_ours_with_v_alone(self):
        flags = ("-K", str(TLS / "key.pem"), "-C", str(TLS / "cert.pem"))
        for server_kind in KINDS:
            with self.subTest(server=server_kind), Server(server_kind, *flags) as server:
                for options in [["-S"], ["-S", "-V"]]:
                    with client("original", server, *options, "tok") as refused:
                        code, lines = refused.ends()
                        self.assertEqual(code, 0)
                        self.assertIn("certificate", " ".join(lines))
                with client("ours", server, "-S", "-V", "tok") as refused:
                    code, lines = refused.ends()
                    self.assertIn("certificate", " ".join(lines))
                with client("ours", server, "-S", "tok") as listening:
                    listening.line_with("WARNING")
                    await_listener(server, "tok", authority())
                    send(server, "ping", "tok", b"x", authority())
                    self.assertEqual(listening.line_with("received"), RECEIVED + "Event<None,ping,x>")

    def test_over_tls_the_original_listens_where_the_system_trusts_the_authority(self):
        flags = ("-K", str(TLS / "key.pem"), "-C", str(TLS / "cert.pem"))
        for server_kind in KINDS:
            with self.subTest(server=server_kind), Server(server_kind, *flags) as server:
                line, environment = command("original", "client", "-H", "localhost", "-P", str(server.port), "-S", "tok")
                with Process(trusting(line), environment) as listening:
                    await_listener(server, "tok", authority())
                    send(server, "ping", "tok", b"x", authority())
                    self.assertEqual(listening.line_with("received"), RECEIVED + "Event<None,ping,x>")

    # --- a server that records what it is sent ---

    def head_of(self, kind, *args):
        return self.heads(1, kind, "", *args)[0]

    def heads(self, count, kind, body, *args):
        """Path and fields of the first requests of a client, each answered by a stream with this body that ends."""
        with recorder(body) as (server, requests), client(kind, server, *args):
            return [requests.get(timeout=PATIENCE_S)[:2] for _ in range(count)]

    def post_of(self, kind, *args):
        with recorder("") as (server, requests):
            self.assertEqual(request(kind, server, *args)[0], 0)
            path, fields, body = requests.get(timeout=PATIENCE_S)
            return path, fields["content-type"], body


def trusting(line):
    """The same command with the test authority in place of the system's: in a mount namespace of its own."""
    bundle = subprocess.run(["curl-config", "--ca"], capture_output=True, text=True, check=True).stdout.strip()
    mount = f"mount --bind '{TLS / 'ca.pem'}' '{bundle}' && exec \"$@\""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--mount", "sh", "-c", mount, "sh", *line]


@contextlib.contextmanager
def recorder(body):
    """A server that records each request and answers 200 with `body`."""
    requests = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            sent = self.rfile.read(int(self.headers.get("content-length", 0)))
            requests.put((self.path, {k.lower(): v for k, v in self.headers.items()}, sent))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a test that has seen enough kills its client
                self.wfile.write(body.encode())

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, requests
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
