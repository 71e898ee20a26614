"""A stand-in for the classic client, written after docs/protocol.md section 10 and not after the
program that it checks. Standard library only.

    classic_client.py URL [--last-event-id ID] [--ca FILE] [--user USER:PASSWORD]

Reads the stream at URL to its end. Prints one JSON array a line: ["head", status, headers] first, then
["event", {"id", "retry", "event", "data"}] and ["comment", text] as they come, and ["end"] last. It is at least as strict as the original: an unknown field, a line without a
colon, a field twice, fields out of order or a line end other than CRLF end it with exit code 1.
"""

import argparse
import base64
import http.client
import json
import ssl
import sys
import urllib.parse

ORDER = ["id", "retry", "event", "data"]


def emit(*what):
    print(json.dumps(what), flush=True)


def read_line(body):
    line = body.readline()
    if not line:
        return None
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        sys.exit("a line does not end with CRLF: %r" % line)
    return line[:-2].decode("utf-8")


def read_event(body):
    """The lines up to an empty one; None at the end of the stream."""
    lines = []
    while True:
        line = read_line(body)
        if line is None:
            if lines:
                sys.exit("the stream ends within an event: %r" % lines)
            return None
        if line == "":
            return lines
        lines.append(line)


def interpret(lines):
    if lines and lines[0].startswith(":"):
        if len(lines) != 1:
            sys.exit("a comment together with something else: %r" % lines)
        return emit("comment", lines[0][1:])
    event, last = {}, -1
    for line in lines:
        field, colon, value = line.partition(":")
        if not colon or field not in ORDER or not value.startswith(" "):
            sys.exit("not a field of an event: %r" % line)
        position = ORDER.index(field)
        if position < last or (position == last and field != "data"):
            sys.exit("out of order: %r" % lines)
        last, value = position, value[1:]
        event[field] = event["data"] + "\n" + value if field in event else value
    if "event" not in event or "data" not in event:
        sys.exit("no event, or no data: %r" % lines)
    emit("event", event)


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("url")
    flags.add_argument("--last-event-id")
    flags.add_argument("--ca")
    flags.add_argument("--user")
    flags = flags.parse_args()
    url = urllib.parse.urlsplit(flags.url)
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=flags.ca)
        connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=60, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    headers = {"Accept": "text/event-stream"}
    if flags.last_event_id is not None:
        headers["Last-Event-ID"] = flags.last_event_id
    if flags.user is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(flags.user.encode()).decode()
    connection.request("GET", url.path, headers=headers)
    response = connection.getresponse()
    emit("head", response.status, {name.lower(): value for name, value in response.getheaders()})
    if response.status != 200:
        emit("body", response.read().decode("utf-8"))
        return
    while (lines := read_event(response)) is not None:
        interpret(lines)
    emit("end")


main()
