"""The three classic programs through proxies that the lab has: plain Squid, tinyproxy and HAProxy.

`run.py` runs these beside its scenarios. The server is in the hub's namespace; the client listens in the appliance's, and
so does the request client send from there, as a script on a customer's network does: through the proxy that `http_proxy`
names, or to the reverse proxy that has the hub's name.
"""

import contextlib
import dataclasses
import subprocess
import time

from scenario import Broken, Lab, lines, stop, tail, uptime

PROXIES = ["squid-plain", "tinyproxy", "haproxy-timeout"]
COUNT, PATIENCE_S = 10, 30
TOKEN = "kiosk-1"


def scenarios(known):
    changes = {"kind_class": "classic", "about": "the classic programs"}
    return [dataclasses.replace(one, name=f"classic-{one.name}", **changes) for one in known if one.name in PROXIES]


def run(scenario, programs, name, state_root, logs):
    """The faults: none when all is right. Raises Skipped or Broken."""
    lab = Lab(name, scenario.lab, state_root, logs)
    with contextlib.closing(lab):
        lab.up(f"{programs / 'eventsource-server'} -P 80 --action ring")
        through = {"http_proxy": lab.vars["NETLAB_PROXY_URL"]} if lab.vars["NETLAB_PROXY_URL"] else {}
        lab.vars |= through  # the environment of all that is started from here on
        client = lab.start("app", [programs / "eventsource-client", "-H", "hub.test", "-P", "80", "-r", "500", "-k", TOKEN], "client.log")
        for number in range(COUNT):
            answered = request(lab, programs, str(number))
            if answered:
                return [answered]
        wanted = [f"INFO:eventsource.client:received Event<None,ring,{number}>" for number in range(COUNT)]
        until = uptime() + PATIENCE_S
        while (received := events(lab))[-1:] != wanted[-1:] and uptime() < until:
            if client.poll() is not None:
                raise Broken(f"the client ended by itself: {tail(lab.logs / 'client.log')}")
            time.sleep(0.1)  # until the last event is in the client's log
        return [] if received == wanted else [f"of {COUNT} events the client received {received}"]


def request(lab, programs, data):
    """Sends until the client is connected; a request that is answered is never repeated."""
    until = uptime() + PATIENCE_S
    while True:
        process = lab.start("app", [programs / "eventsource-request", "-H", "hub.test", "-P", "80", TOKEN, "ring", data], f"request-{data}.log")
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            stop(process)
            return f"request {data} did not end"
        if code == 0:
            return ""
        message = tail(lab.logs / f"request-{data}.log")
        if "Target is not connected" not in message or uptime() > until:
            return f"request {data} failed: {message}"
        time.sleep(0.1)  # until the client is connected


def events(lab):
    return [line for line in lines(lab.logs / "client.log") if "received Event" in line]
