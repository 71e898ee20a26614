"""A stand-in for the classic server, written after docs/protocol.md section 10 and not after the
program that it checks. Standard library only.

    classic_server.py [--json] [--id] [--keepalive MS] [--key FILE --cert FILE] [--script JSON]

Listens on a port of 127.0.0.1 that the kernel chooses. Prints one JSON array a line: ["port", N] first, then
["request", method, path, {header: value}, body] for each request.

With --script, every GET is answered by the script instead, a JSON list of
{"status", "headers", "body", "end"}, one after the other; the last one stands for all that follow.
"end" is "orderly" (the default), or "broken": the connection ends within the chunked body.
"""

import argparse
import html
import http.server
import json
import queue
import ssl
import threading
import time

flags = argparse.ArgumentParser()
flags.add_argument("--json", action="store_true")
flags.add_argument("--id", action="store_true")
flags.add_argument("--keepalive", type=int, default=0)
flags.add_argument("--key")
flags.add_argument("--cert")
flags.add_argument("--script", type=json.loads, default=[])
flags = flags.parse_args()

ACTIONS = ["ping", "close"] + (["retry"] if flags.id else [])
lock = threading.Lock()
listeners = {}
next_id = 0
gets = 0


def emit(*what):
    with lock:
        print(json.dumps(what), flush=True)


class Listener:
    def __init__(self):
        self.frames = queue.Queue()
        self.retry = None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_):
        pass

    def record(self, body=""):
        headers = {name.lower(): value for name, value in self.headers.items()}
        emit("request", self.command, self.path, headers, body)

    def page(self, status, message):
        reason = http.client.responses[status]
        body = "<html><title>%d: %s</title><body>%d: %s</body></html>\n" % (status, reason, status, message)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def chunk(self, text):
        data = text.encode("utf-8")
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def begin(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def play(self, scene):
        self.begin(scene.get("status", 200), scene.get("headers", {"Content-Type": "text/event-stream"}))
        if scene.get("body"):
            self.chunk(scene["body"])
        if scene.get("end", "orderly") == "broken":
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def do_GET(self):
        global gets
        self.record()
        if flags.script:
            scene = flags.script[min(gets, len(flags.script) - 1)]
            gets += 1
            return self.play(scene)
        _, action, token = self.path.rsplit("/", 2)
        if action != "poll":
            self.send_response(301)
            self.send_header("Location", "/")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        with lock:
            listener = None if token in listeners else listeners.setdefault(token, Listener())
        if listener is None:
            return self.page(423, "Target is already connected")
        try:
            self.begin(200, {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
            self.stream(listener)
        finally:
            with lock:
                del listeners[token]
        self.wfile.write(b"0\r\n\r\n")

    def stream(self, listener):
        pause = flags.keepalive / 1000 or None
        while True:
            try:
                frame = listener.frames.get(timeout=pause)
            except queue.Empty:
                frame = ": keepalive %.2f\r\n\r\n" % time.time()
            if frame is None:
                return
            self.chunk(frame)

    def do_POST(self):
        global next_id
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.record(body.decode("utf-8"))
        _, action, token = self.path.rsplit("/", 2)
        with lock:
            listener = listeners.get(token)
        if listener is None:
            return self.page(404, "Target is not connected")
        if action not in ACTIONS:
            return self.page(404, "Unknown action requested")
        data = body.decode("utf-8")
        if flags.json:
            try:
                data = json.dumps(json.loads(data)).replace("</", "<\\/")
            except ValueError as error:
                return self.page(400, "Data is not properly formatted: <br />" + html.escape(str(error)))
        if action == "close":
            listener.frames.put(None)
        elif action == "retry" and data.isdigit():
            listener.retry = data
        else:
            frame = ""
            if flags.id:
                frame += "id: %d\r\n" % next_id
                next_id += 1
            if listener.retry is not None:
                frame += "retry: %s\r\n" % listener.retry
                listener.retry = None
            frame += "event: %s\r\n" % action
            for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
                frame += "data: %s\r\n" % line
            listener.frames.put(frame + "\r\n")
        self.send_response(200)
        self.send_header("Accept", "application/json" if flags.json else "text/plain")
        self.send_header("Content-Length", "0")
        self.end_headers()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if flags.cert:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(flags.cert, flags.key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
emit("port", server.server_address[1])
server.serve_forever()
