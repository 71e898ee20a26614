"""One scenario, from building the lab to its record: the real hub and the real agent, one command a second.

`run.py` chooses and reports, `judge.py` judges, `settings.py` writes the configurations, `sender.py` is the sender.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import settings

HERE = Path(__file__).resolve().parent
NETLAB = HERE.parent / "netlab" / "netlab"
COUNT, PERIOD_S = 24, 1.0
# How long what was sent may still take to run and be reported, by class: beyond the latency allowed there, so that a
# command that is merely late is not called lost.
DRAIN_S = {"silent-death": 40, "outage": 50, "captive": 0}
DRAIN_DEFAULT_S = 15
# All packets are lost for so long: two heartbeats of 5 s, the contract's 10 s, and time to see it.
OUTAGE_S = 25
# A lab is up within seconds; a traffic server takes its time on a busy machine.
UP_S, STOP_S = 120, 15

# What the handler prints for these commands, in bytes: a usual result, and one far beyond what is reported.
WRITTEN = {"12": 10_000, "18": 5 << 20}

NOTE = """#!/bin/sh
# A line per run: the command's number, and the seconds since boot.
read -r number
read -r up rest </proc/uptime
echo "$number $up" >>{runs}
case $number in
{cases}
esac
"""


class Skipped(Exception):
    """The scenario cannot run on this machine; says why."""


class Broken(Exception):
    """The lab, the hub or the agent did not start; says why."""


@dataclass
class Scenario:
    """A line of `netlab show`."""

    name: str
    kind: str
    kind_class: str
    shows: list
    first_s: float
    body_max: int
    drop_mode: str
    drop_after_s: float
    missing: str
    about: str
    # A configuration for the lab of this name in place of its own: `stanzas.py`.
    lab: str = ""
    conf: str = ""
    trust: str = ""
    # How many commands, and how far apart.
    count: int = COUNT
    period_s: float = PERIOD_S


def scenarios():
    shown = subprocess.run([NETLAB, "show"], capture_output=True, text=True, check=True).stdout
    found = []
    for line in shown.splitlines():
        name, kind, kind_class, shows, first, body, mode, after, missing, about = line.split("\t")
        found.append(Scenario(name, kind, kind_class, shows.split(","), float(first), int(body), mode, float(after), missing, about, name))
    return found


class Lab:
    """The three namespaces of a scenario, and the processes in them."""

    def __init__(self, name, scenario, state_root, logs, **options):
        self.name, self.scenario, self.logs = name, scenario, Path(logs)
        self.folder = Path(state_root, name)
        self.env = dict(os.environ, NETLAB_STATE=str(state_root), NETLAB_PKI=str(Path(state_root, "pki")), **options)
        self.vars, self.stack = {}, contextlib.ExitStack()

    def netlab(self, *line, timeout=UP_S):
        return subprocess.run([NETLAB, *line, "--name", self.name], env=self.env, capture_output=True, text=True, timeout=timeout)

    def up(self, hub):
        self.stack.callback(self.down)
        result = self.netlab("up", self.scenario, "--hub", hub)
        message = result.stderr.strip()
        if result.returncode == 77:
            raise Skipped(message.removeprefix("SKIP: "))
        if result.returncode:
            raise Broken(f"the lab did not start: {message}")
        self.vars = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)

    def down(self):
        if Path(self.folder, "log").is_dir():
            shutil.copytree(self.folder / "log", self.logs, dirs_exist_ok=True)
        self.netlab("down")

    def start(self, where, line, log, **options):
        """A process in the appliance's (app), the proxy's (prx) or the hub's (hub) namespace, ended with the lab."""
        env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        output = self.stack.enter_context(open(self.logs / log, "wb"))
        whole = ["ip", "netns", "exec", f"nl-{self.name}-{where}", *map(str, line)]
        options = {"stdout": output, "stderr": output, "env": env | self.vars} | options
        process = subprocess.Popen(whole, stdin=subprocess.DEVNULL, **options)
        self.stack.callback(stop, process)
        return process

    def close(self):
        self.stack.close()


def stop(process):
    """TERM, and KILL when that does not help."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def uptime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def build(scenario, bellwire, name, state_root, logs):
    """The lab of a scenario with the hub in it, for the caller to close. Raises Skipped or Broken."""
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    if scenario.conf:
        (logs / "proxy.conf").write_text(scenario.conf)
    options = {"NETLAB_CONF": str(logs / "proxy.conf"), "NETLAB_TRUST": scenario.trust} if scenario.conf else {}
    lab = Lab(name, scenario.lab, state_root, logs, **options)
    try:
        config = lab.logs / "hub.toml"
        config.write_text(settings.HUB_TOML.format(dir=lab.folder))
        lab.up(f"{bellwire} serve --config {config}")
    except BaseException:
        lab.close()
        raise
    return lab


def play(lab, scenario, bellwire):
    """The record of one run, for `judge.py`. Raises Broken."""
    runs = lab.logs / "runs"
    note = lab.logs / "note.sh"
    cases = [f"{number}) head -c {size} /dev/zero | tr '\\0' x ;;" for number, size in WRITTEN.items()]
    note.write_text(NOTE.format(runs=runs, cases="\n".join(cases)))
    agent_toml = lab.logs / "agent.toml"
    agent_toml.write_text(settings.agent_toml(scenario, lab.vars, {"note": note}))
    record = {"class": scenario.kind_class, "shows": scenario.shows, "first_s_max": scenario.first_s, "count": scenario.count}
    record |= {"written": WRITTEN, "body_max": scenario.body_max}
    record["agent_started"] = uptime()
    agent = lab.start("app", [bellwire, "-v", "agent", "run", "--config", agent_toml], "agent.log")
    drain = DRAIN_S.get(scenario.kind_class, DRAIN_DEFAULT_S)
    line = ["python3", HERE / "sender.py", "http://10.77.2.2", settings.DEVICE, scenario.count, scenario.period_s, drain, runs]
    line += [number for number in WRITTEN if int(number) < scenario.count]
    with open(lab.logs / "sender.json", "wb") as output:
        sender = lab.start("hub", line, "sender.log", stdout=output)
        ends = loss(lab, scenario, record) if scenario.drop_after_s else None
        until = time.monotonic() + scenario.count * scenario.period_s + drain + 60
        while sender.poll() is None:
            if agent.poll() is not None:
                raise Broken(f"the agent ended by itself with {agent.returncode}: {tail(lab.logs / 'agent.log')}")
            if time.monotonic() > until:
                raise Broken("the sender did not end")
            time.sleep(0.1)  # until either ends
        if ends:
            ends.join()
    if sender.returncode:
        raise Broken(f"the sender failed: {tail(lab.logs / 'sender.log')}")
    record |= json.loads((lab.logs / "sender.json").read_text())
    record["runs"] = [[int(number), float(at)] for number, at in map(str.split, lines(runs))]
    record["log"] = lines(lab.logs / "agent.log")
    access = lines(lab.folder / "log" / "access.log") if scenario.body_max else []
    record["refusals"] = sum("/413 " in line for line in access)
    return record


def loss(lab, scenario, record):
    """Starts what loses packets silently after the scenario's time, and for an outage heals it later."""

    def lose():
        wait_until(record["agent_started"] + scenario.drop_after_s)
        record["dropped"] = uptime()
        lab.netlab("drop", scenario.drop_mode)
        if scenario.kind_class == "outage":
            wait_until(record["agent_started"] + scenario.drop_after_s + OUTAGE_S)
            record["healed"] = uptime()
            lab.netlab("drop", "off")

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    return thread


def wait_until(at):
    time.sleep(max(0.0, at - uptime()))


def lines(path):
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def tail(path):
    return " / ".join(lines(path)[-3:])
