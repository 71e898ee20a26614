"""The original's programs and ours as processes: how each is started, awaited, and ended. Standard library only.

The environment names them: ORIGINAL_PYTHON is a Python 2.7, ORIGINAL_SITE the folder with the original (release 1.1.1)
and what it needs, OURS the folder with our three programs.
"""

import os
import queue
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

PATIENCE_S = 30
TLS = Path(__file__).resolve().parents[2] / "crates/hub/tests/fixtures/tls"
MODULES = {"server": "listener", "client": "client", "request": "request"}
KINDS = ("original", "ours")


def command(kind, role, *args):
    """The command line of one program, and its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    if kind == "ours":
        return [os.path.join(os.environ["OURS"], f"eventsource-{role}"), *args], environment
    environment["PYTHONPATH"] = os.environ["ORIGINAL_SITE"]
    module = f"eventsource.{MODULES[role]}"
    return [os.environ["ORIGINAL_PYTHON"], "-u", "-m", module, *args], environment


class Process:
    """A process whose lines on standard error are read as they come. Killed when its `with` ends."""

    def __init__(self, line, environment):
        self.seen, self.lines = [], queue.Queue()
        self.process = subprocess.Popen(
            line, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.put(line.decode("utf-8", "replace").rstrip("\n"))
        self.lines.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()

    def line_with(self, text):
        """The next line that holds `text`."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                line = self.lines.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} in {PATIENCE_S} s; before: {self.seen}") from None
            if line is None:
                raise AssertionError(f"it ended without a line with {text!r}: {self.seen}")
            self.seen.append(line)
            if text in line:
                return line

    def ends(self):
        """The exit code, and all lines that were not read yet."""
        code = self.process.wait(timeout=PATIENCE_S)
        self.reader.join()
        rest = []
        while (line := self.lines.get()) is not None:
            rest.append(line)
        return code, rest


def free_port():
    """A port that was free a moment ago: the original cannot say which one the kernel chose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server(Process):
    """A server of either kind, once it accepts connections."""

    def __init__(self, kind, *args):
        self.kind, self.port = kind, free_port()
        super().__init__(*command(kind, "server", "-P", str(self.port), *args))
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    code = self.process.poll()
                    self.__exit__()
                    raise AssertionError(f"the server of {kind} does not accept; exit code {code}") from None
                time.sleep(0.02)  # until it listens

    @property
    def copies(self):
        """How often the server writes an event: the original does it twice with this `toro`."""
        return 2 if self.kind == "original" else 1

    @property
    def closed(self):
        """The status of a `close`: the original ends the stream twice, and fails at the second time."""
        return 500 if self.kind == "original" else 200


def client(kind, server, *args):
    """A client of either kind; its token is the last argument."""
    return Process(*command(kind, "client", "-P", str(server.port), *args))


def request(kind, server, *args):
    """Runs a request to its end: exit code and standard output."""
    line, environment = command(kind, "request", "-P", str(server.port), *args)
    done = subprocess.run(line, env=environment, capture_output=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def send(server, action, token, body=b"", tls=None):
    """A POST as bytes of our own, and the answer: status, head, body."""
    head = f"POST /{action}/{token} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return exchange(server, head.encode() + body, tls)


def exchange(server, sent, tls=None):
    """Sends bytes, reads to the end of the connection: status, fields, body."""
    with connect(server, tls) as peer:
        peer.sendall(sent)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(re.split(r":\s*", line, maxsplit=1) for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, value in fields.items()}, body.decode("utf-8")


def connect(server, tls=None):
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    return tls.wrap_socket(plain, server_hostname="localhost") if tls else plain


def await_listener(server, token, tls=None):
    """Waits until a listener is connected with the token. An unknown action shows it, and changes nothing."""
    until = time.monotonic() + PATIENCE_S
    while "Unknown action" not in send(server, "no-such-action", token, tls=tls)[2]:
        assert time.monotonic() < until, f"no listener for {token}"
        time.sleep(0.02)  # until one is


class Listener:
    """A raw listener without chunks: the stream's bytes as the server wrote them."""

    def __init__(self, server, token, tls=None):
        self.socket, self.read = connect(server, tls), b""
        self.socket.sendall(f"GET /poll/{token} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        await_listener(server, token, tls)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def until(self, end):
        """What has come since the last call, up to and with `end`."""
        while end not in self.read:
            more = self.socket.recv(65536)
            assert more, f"the stream ended before {end!r}: {self.read!r}"
            self.read += more
        before, found, self.read = self.read.partition(end)
        return before + found

    def frame(self):
        """One event; the head is left out, which the original writes with the first."""
        frame = self.until(b"\r\n\r\n")
        return self.frame() if frame.startswith(b"HTTP/1.") else frame

    def rest(self):
        """Everything to the end of the stream."""
        while more := self.socket.recv(65536):
            self.read += more
        return self.read
