"""The sender's side of a scenario: runs in the hub's network namespace, posts one command a second, and watches.

    sender.py HUB_URL DEVICE COUNT PERIOD_S DRAIN_S RUNS_FILE NUMBER…

It prints one JSON object at its end: what was sent when, what the hub showed of the device all along, how each command
ended, and how much output the hub has of those whose NUMBERs are given. All times are seconds of the clock since boot (/proc/uptime), which the appliance's handler reads too, so that
differences between the two sides are exact to its resolution of 10 ms.
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

SAMPLE_S = 0.25
ANSWER_S = 10
# A connection that was idle for longer may be closed by the hub just when it is used again.
IDLE_S = 30


def now():
    return round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)


class Hub:
    """One connection to the hub, made anew after an error."""

    def __init__(self, url):
        self.address = urlsplit(url).netloc
        self.connection, self.used = None, time.monotonic()

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def ask(self, method, path, body=None):
        """Status and JSON of the answer; status 0 where there was none."""
        if time.monotonic() - self.used > IDLE_S:
            self.close()
        self.used = time.monotonic()
        try:
            self.connection = self.connection or http.client.HTTPConnection(self.address, timeout=ANSWER_S)
            self.connection.request(method, path, body=body, headers={"content-type": "application/json"})
            answer = self.connection.getresponse()
            content = json.load(answer)
            return answer.status, content
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            return 0, {"error": str(error)}


class Watch(threading.Thread):
    """Samples what the hub shows of the device, whenever it changes, and how late this machine wakes a sleeper."""

    def __init__(self, url, device):
        super().__init__(daemon=True)
        self.hub, self.path = Hub(url), f"/v1/devices/{device}"
        self.samples, self.stall_s, self.ended = [], 0.0, threading.Event()

    def run(self):
        due = time.monotonic()
        while not self.ended.is_set():
            status, shown = self.hub.ask("GET", self.path)
            if status == 200:
                self.samples.append([now(), shown["online"], shown["transport"], shown["connected_at"]])
            due = max(due + SAMPLE_S, time.monotonic())
            self.ended.wait(due - time.monotonic())
            self.stall_s = max(self.stall_s, time.monotonic() - due)


def ran(path):
    """How many different commands the appliance's handler was run for."""
    try:
        return len({line.split()[0] for line in Path(path).read_text().splitlines() if line.strip()})
    except FileNotFoundError:
        return 0


def states(hub, device):
    """The state of each command of the device, by id."""
    status, page = hub.ask("GET", f"/v1/commands?device={device}&limit=1000")
    return {item["id"]: next(iter(item["counts"]), None) for item in page["items"]} if status == 200 else {}


def output(hub, command):
    """How much of its output the hub has."""
    status, page = hub.ask("GET", f"/v1/commands/{command}/deliveries")
    delivery = page["items"][0] if status == 200 and page["items"] else {}
    return {"bytes": len(delivery.get("stdout") or ""), "truncated": delivery.get("truncated")}


def main():
    url, device, runs = sys.argv[1], sys.argv[2], sys.argv[6]
    count, period, drain = int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])
    hub, watch = Hub(url), Watch(url, device)
    watch.start()
    sent, begun = [], time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number * period - time.monotonic()))  # the pace of the sender
        at = now()
        status, answer = hub.ask("POST", f"/v1/send/{device}/note?ttl=15m", str(number))
        sent.append({"number": number, "at": at, "status": status, "command": answer.get("command")})
    sending_ended = now()
    until = time.monotonic() + drain
    while time.monotonic() < until:
        ended = states(hub, device)
        if ran(runs) >= count and all(ended.get(one["command"]) == "succeeded" for one in sent):
            break
        time.sleep(0.2)  # until the last result is at the hub
    ended = states(hub, device)
    # What is shown in the end must be shown for a moment, not by chance in one sample.
    time.sleep(2.0)
    watch.ended.set()
    watch.join(timeout=ANSWER_S)
    for one in sent:
        one["state"] = ended.get(one["command"])
    outputs = {number: output(hub, sent[int(number)]["command"]) for number in sys.argv[7:]}
    record = {"sent": sent, "sending_ended": sending_ended, "ended": now(), "outputs": outputs}
    print(json.dumps(record | {"stall_s": round(watch.stall_s, 3), "samples": watch.samples}))


if __name__ == "__main__":
    main()
