"""Every network of the lab (tests/netlab): a real hub and a real agent behind it, one command a second for 24 s.

    bash .ci/run networks                       as root, with everything installed
    python3 tests/networks/run.py --only squid-plain stall
    python3 tests/networks/run.py --json > networks.json
    NETLAB_IDLE=60 python3 tests/networks/run.py --only idle-cut --count 40 --period 90     # an hour, nearly idle

Beside these, in the same way: the stanzas of the documentation (`stanzas.py`), the classic programs (`classic.py`) and `bellwire
doctor` (`doctor.py`).

Asserted of each scenario (`judge.py`): none lost, none run twice, every result reported, latency of the scenario's class,
what the hub shows in the end, and no appliance shown online on a stream by which nothing arrives. A scenario whose only
fault is lateness is run once more, alone. Logs are in target/networks/NAME. Exit 0: all green and enough of them ran.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import classic
import doctor
import judge
import scenario as scenarios
import stanzas
from scenario import Broken, Skipped

ROOT = Path(__file__).resolve().parents[2]
LOGS = Path(os.environ.get("NETWORKS_LOGS", ROOT / "target/networks"))
# Fewer of the lab's networks have run than this: red, whatever became of those.
RUN_MIN = 55
# Mostly they wait; what they cost is their start.
JOBS_PER_CORE = 3
COLUMNS = "{:<24} {:<9} {:>6} {:>5} {:>9} {:>6} {:>6} {:>6}  {:<7} {}"


class Suite:
    def __init__(self, bellwire, state_root):
        self.bellwire, self.state_root = bellwire, state_root
        self.lock, self.names = threading.Lock(), []

    def lab_name(self):
        """At most 8 characters, and no other run's."""
        with self.lock:
            self.names.append(f"n{os.getpid() % 0x10000:x}{len(self.names):03x}")
            return self.names[-1]

    def close(self):
        """Ends what an interrupted run has left."""
        for name in self.names:
            if Path(f"/run/netns/nl-{name}-prx").exists():
                subprocess.run([scenarios.NETLAB, "down", "--name", name], env=dict(os.environ, NETLAB_STATE=str(self.state_root)), check=False)

    def lab(self, scenario, logs):
        return scenarios.build(scenario, self.bellwire, self.lab_name(), self.state_root, logs)

    def once(self, scenario):
        """The result of a scenario."""
        logs = LOGS / scenario.name
        if scenario.kind_class in ("classic", "doctor"):
            return self.tool(scenario, logs)
        return self.commands(scenario, logs)

    def tool(self, scenario, logs):
        """The classic programs, or the doctor: without the agent."""
        result = blank(scenario)
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        try:
            if scenario.kind_class == "classic":
                faults = classic.run(scenario, Path(self.bellwire).parent, self.lab_name(), self.state_root, logs)
            else:
                faults = doctor.run(scenario, self.bellwire, self.lab_name(), self.state_root, logs)
        except Skipped as error:
            return result | {"state": "skipped", "faults": [str(error)]}
        except (Broken, subprocess.TimeoutExpired) as error:
            faults = [str(error)]
        return result | {"state": "red" if faults else "green", "faults": faults}

    def commands(self, scenario, logs):
        result = blank(scenario)
        try:
            with contextlib.closing(self.lab(scenario, logs)) as lab:
                record = scenarios.play(lab, scenario, self.bellwire)
        except Skipped as error:
            return result | {"state": "skipped", "faults": [str(error)]}
        except (Broken, subprocess.TimeoutExpired) as error:
            return result | {"state": "red", "faults": [str(error)]}
        verdict = judge.judge(record)
        (logs / "record.json").write_text(json.dumps(record))
        result |= {"measures": verdict.measures, "faults": verdict.faults, "late": verdict.late, "stall_s": record["stall_s"]}
        return result | {"state": "green" if verdict.green else "red"}


def blank(scenario):
    return {"name": scenario.name, "class": scenario.kind_class, "measures": {}, "faults": [], "late": [], "stall_s": 0.0}


def line(result):
    found = result["measures"]
    number = lambda key: "-" if found.get(key) is None else found[key]
    remarks = "; ".join(result["faults"] + result["late"])
    if result.get("again"):
        remarks = f"run again, alone, because of: {'; '.join(result['again'])}" + (f" | now: {remarks}" if remarks else "")
    if result["late"] and result["stall_s"] > 0.2:
        remarks += f" (this machine stood still for {result['stall_s']} s)"
    ran = f"{found['ran']}/{found['sent']}" if found else "-"
    reported = number("reported")
    return COLUMNS.format(result["name"], result["state"], ran, reported, result["class"][:9], number("first_s"),
                          number("p50_s"), number("worst_s"), found.get("shows", "-"), remarks).rstrip()


HEAD = COLUMNS.format("scenario", "verdict", "ran", "ackd", "class", "first", "p50", "worst", "shows", "")


def main():
    options = arguments()
    if os.geteuid() != 0:
        sys.exit("error: network namespaces need root: sudo python3 tests/networks/run.py")
    wanted = [dataclasses.replace(one, count=options.count, period_s=options.period) for one in chosen(options.only)]
    say = (lambda text: print(text, file=sys.stderr, flush=True)) if options.json else (lambda text: print(text, flush=True))
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with StateRoot() as state_root, contextlib.closing(Suite(options.bellwire, state_root)) as suite:
        say(f"{len(wanted)} scenarios, {options.jobs} at a time, logs in {LOGS}\n{HEAD}")
        results = []
        pool = concurrent.futures.ThreadPoolExecutor(options.jobs)
        try:
            for done in concurrent.futures.as_completed([pool.submit(suite.once, one) for one in wanted]):
                results.append(done.result())
                say(line(results[-1]))
        finally:
            pool.shutdown(cancel_futures=True)
        by_name = {one.name: one for one in wanted}
        for place, result in enumerate(results):
            if result["state"] == "red" and not result["faults"] and not options.no_retry:
                results[place] = suite.once(by_name[result["name"]]) | {"again": result["late"]}
                say(line(results[place]))
    return report(results, wanted, options, say, time.monotonic() - began)


def report(results, wanted, options, say, took_s):
    results.sort(key=lambda one: one["name"])
    states = [one["state"] for one in results]
    networks = {one.name for one in wanted if one.name == one.lab}
    ran = sum(one["state"] != "skipped" and one["name"] in networks for one in results)
    enough = ran >= RUN_MIN or bool(options.only)
    green = "red" not in states and enough
    if options.json:
        print(json.dumps({"green": green, "took_s": round(took_s), "results": results}, indent=1))
    say("\n" + HEAD)
    for result in results:
        say(line(result))
    say(f"\nOf {len(results)}: {states.count('green')} green, {states.count('red')} red, {states.count('skipped')} skipped, in {took_s:.0f} s")
    if not enough:
        say(f"error: only {ran} networks ran; fewer than {RUN_MIN} prove too little. What is missing is in the table.")
    return 0 if green else 1


def chosen(only):
    lab = scenarios.scenarios()
    known = lab + stanzas.scenarios(lab) + classic.scenarios(lab) + doctor.scenarios(lab)
    if not only:
        return known
    names = {one.name for one in known}
    unknown = [name for name in only if name not in names]
    if unknown:
        sys.exit(f"error: no scenario {', '.join(unknown)}. There are: {', '.join(sorted(names))}")
    return [one for one in known if one.name in only]


class StateRoot:
    """A folder in memory for all labs: a hub that waits for a shared disk would be late for that reason alone.

    It also holds the keys of all labs, made once."""

    def __enter__(self):
        self.path = Path(f"/run/bellwire-networks-{os.getpid()}")
        self.path.mkdir(mode=0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=755", "tmpfs", self.path], check=True)
        env, name = dict(os.environ, NETLAB_STATE=str(self.path)), f"k{os.getpid() % 0x10000:x}"
        made = ["bash", "-c", f'"$0" up direct --name "$1" --hub-port 0 >/dev/null && cp -r "{self.path}/$1/pki" "{self.path}/pki"', scenarios.NETLAB, name]
        result = subprocess.run(made, env=env, capture_output=True, text=True)
        subprocess.run([scenarios.NETLAB, "down", "--name", name], env=env, check=False)
        if result.returncode:
            self.__exit__()
            sys.exit(f"error: the lab does not run here: {result.stderr.strip()}")
        return self.path

    def __exit__(self, *_):
        subprocess.run(["umount", "--lazy", self.path], check=False)
        self.path.rmdir()


def debug_program():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "debug/bellwire"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these scenarios alone")
    parser.add_argument("--jobs", type=int, default=JOBS_PER_CORE * (os.cpu_count() or 1), metavar="N", help="how many at a time")
    parser.add_argument("--count", type=int, default=scenarios.COUNT, metavar="N", help="how many commands")
    parser.add_argument("--period", type=float, default=scenarios.PERIOD_S, metavar="SECONDS", help="how far apart")
    parser.add_argument("--json", action="store_true", help="the results as JSON on standard output, the rest on standard error")
    parser.add_argument("--bellwire", default=str(debug_program()), metavar="FILE", help="the program under test")
    parser.add_argument("--no-retry", action="store_true", help="run nothing again that was only late")
    options = parser.parse_args()
    if not Path(options.bellwire).is_file():
        sys.exit(f"error: there is no {options.bellwire}: cargo build -p bellwire --bins")
    return options


if __name__ == "__main__":
    sys.exit(main())
