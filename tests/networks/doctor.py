"""`bellwire doctor` in networks that the lab has: what it finds is the network's class.

`run.py` runs these beside its scenarios. The hub is the real one; the program runs in the appliance's namespace, with the
proxy that the lab names.
"""

import contextlib
import dataclasses
import json
import subprocess
from pathlib import Path

import settings
from scenario import Broken, build, stop, tail

# The exit code by the network's class: a stream, the long poll alone, nothing.
CODES = {"streaming": 0, "one-behind": 0, "buffered": 1, "captive": 6}
NETWORKS = ["direct", "squid-plain", "squid-auth", "squid-digest", "squid-ntlm", "tls-intercept", "no-connect", "hold-last",
            "block-64k", "buffering-until-close", "deny-stream", "captive-portal"]
WITHIN_S = 240


def scenarios(known):
    changes = {"kind_class": "doctor", "about": "bellwire doctor"}
    return [dataclasses.replace(one, name=f"doctor-{one.name}", kind=one.kind_class, **changes) for one in known if one.name in NETWORKS]


def run(scenario, bellwire, name, state_root, logs):
    """The faults: none when all is right. Raises Skipped or Broken."""
    with contextlib.closing(build(scenario, bellwire, name, state_root, logs)) as lab:
        line = [bellwire, "doctor", "--json", "--hub", "https://hub.test", "--hub", "http://hub.test", "--ca-file", lab.vars["NETLAB_CA"]]
        if proxy := settings.proxy_url(lab.vars):
            line += ["--proxy", proxy]
        with open(Path(logs, "doctor.json"), "wb") as output:
            process = lab.start("app", line, "doctor.log", stdout=output)
            try:
                code = process.wait(WITHIN_S)
            except subprocess.TimeoutExpired:
                stop(process)
                return [f"it did not end within {WITHIN_S} s"]
        return judge(scenario, code, Path(logs, "doctor.json").read_text(), tail(Path(logs, "doctor.log")), lab.vars["NETLAB_PROXY_PASS"])


def judge(scenario, code, output, log, password):
    try:
        found = json.loads(output)
    except ValueError:
        raise Broken(f"it ended with {code} and printed no report: {log}") from None
    expected, faults = CODES[scenario.kind], []
    if (code, found["exit_code"]) != (expected, expected):
        failed = [f"{way['hub']}: {step['name']}: {step['detail']}" for way in found["ways"] for step in way["steps"] if not step["ok"]]
        faults.append(f"exit code {code}, and not {expected}: {'; '.join(failed)}")
    if expected and not any(step["remedy"] for way in found["ways"] for step in way["steps"]):
        faults.append("it has no sentence for the owner of the network")
    if password and password in output + log:
        faults.append("it printed the proxy's password")
    return faults
