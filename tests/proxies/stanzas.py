"""The stanzas of docs/operations.md, each run as it stands there: a real hub behind a real nginx and a real Caddy.

    bash .ci/run proxies

Only names, ports and paths are put in place of the page's. HUB is the folder with `bellwire`. Standard library only.
"""

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TLS = ROOT / "crates/hub/tests/fixtures/tls"
PATIENCE_S = 30


def stanza(name):
    """The fenced block of the page after the line `<!-- ci: NAME -->`."""
    page = (ROOT / "docs/operations.md").read_text()
    found = re.search(rf"<!-- ci: {name} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert found, f"docs/operations.md has no stanza {name}"
    return found[1]


def replaced(text, *pairs):
    """Puts ours in place of the page's; each must be there."""
    for old, new in pairs:
        assert old in text, f"the stanza has no {old!r}"
        text = text.replace(old, new)
    return text


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(line, port, log, **options):
    """A process, from when it accepts connections; its output goes to `log`."""
    with open(log, "wb") as output:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
                break
            except OSError:
                alive = process.poll() is None and time.monotonic() < until
                assert alive, f"{line[0]} does not accept: {Path(log).read_text(errors='replace')}"
                time.sleep(0.02)  # until it listens
        yield
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)


class Stanzas(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.hub, self.port = free_port(), free_port()
        line = [os.path.join(os.environ["HUB"], "bellwire"), "serve", "--listen", f"127.0.0.1:{self.hub}"]
        line += ["--data-dir", str(self.folder / "data")]
        self.stack.enter_context(running(line, self.hub, self.folder / "hub.log"))

    def connect(self):
        context = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
        return http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE_S, context=context)

    def works(self):
        """A stream is not buffered, a command passes while it is open, and its report gets back to the sender."""
        with contextlib.closing(self.connect()) as stream, contextlib.closing(self.connect()) as sender:
            with contextlib.closing(self.connect()) as report:
                self.passes(stream, sender, report)

    def passes(self, stream, sender, report):
        stream.request("GET", "/v1/devices/kiosk-1/stream", headers={"accept": "text/event-stream"})
        answer = stream.getresponse()
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "text/event-stream"))
        self.assertIsNone(answer.headers["content-encoding"])
        self.assertEqual(self.event(answer)["event"], "hello")

        sender.request("POST", "/v1/send/kiosk-1/ping?wait=30s", body=b'{"n":1}', headers={"content-type": "application/json"})
        event = self.event(answer)
        command = json.loads(event["data"])
        self.assertEqual((event["event"], command["action"], command["data"]), ("command", "ping", {"n": 1}))

        path = f"/v1/devices/kiosk-1/commands/{command['id']}/status"
        body = json.dumps({"state": "succeeded", "stdout": "x" * 60_000})
        report.request("POST", path, body=body, headers={"content-type": "application/json"})
        self.assertEqual(report.getresponse().status, 200)
        ended = sender.getresponse()
        self.assertEqual((ended.status, json.load(ended)["state"]), (200, "succeeded"))

    def event(self, stream):
        """The next event: its fields. Comments and retries are read over."""
        fields = {}
        while line := stream.readline().decode().rstrip("\r\n"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        return fields if "event" in fields else self.event(stream)

    def test_nginx(self):
        server = replaced(
            stanza("nginx"),
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("hub.example.com", "localhost"),
            ("/etc/ssl/hub.pem", str(TLS / "cert.pem")),
            ("/etc/ssl/hub.key", str(TLS / "key.pem")),
            ("127.0.0.1:8888", f"127.0.0.1:{self.hub}"),
        )
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = self.folder / "nginx.conf"
        config.write_text(
            f"daemon off; pid {self.folder}/nginx.pid; error_log stderr; events {{}}\nhttp {{ access_log off; {temporary}\n{server} }}\n"
        )
        if os.geteuid() == 0:
            config.write_text("user root;" + config.read_text())  # its temporary files are in a folder of ours
        with running(["nginx", "-e", "stderr", "-c", str(config)], self.port, self.folder / "nginx.log"):
            self.works()

    def test_caddy(self):
        # The certificate is the test authority's: there is no authority here to fetch one from.
        site = replaced(
            stanza("caddy"),
            ("hub.example.com {", f"https://localhost:{self.port} {{\n    tls {TLS / 'cert.pem'} {TLS / 'key.pem'}"),
            ("127.0.0.1:8888", f"127.0.0.1:{self.hub}"),
        )
        config = self.folder / "Caddyfile"
        config.write_text(f"{{\n    admin off\n    grace_period 1s\n    auto_https disable_redirects\n}}\n{site}")
        home = dict(os.environ, HOME=str(self.folder), XDG_DATA_HOME=str(self.folder), XDG_CONFIG_HOME=str(self.folder))
        line = ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]
        with running(line, self.port, self.folder / "caddy.log", env=home):
            self.works()


if __name__ == "__main__":
    unittest.main(verbosity=2)
