"""Judges what was recorded of a scenario (`scenario.py`) by its class. Pure: a record in, a verdict out.

The promise in every network: none lost, none run twice, every result reported, and the hub never shows an appliance online
on a stream while it receives nothing. How late a command may be depends on the class of the network, as its .scn says.
"""

import statistics
from dataclasses import dataclass, field

# Seconds from the send to the start of the handler: the median, and the worst, of the commands sent once the first had run.
# (A command that waits for the appliance to find its way is bounded by the scenario's FIRST.)
LATENCY_S = {
    "streaming": (0.3, 2.0),
    # What holds back the last write is recognised while the poll still carries.
    "one-behind": (1.0, 3.0),
    "buffered": (1.0, 5.0),
    # Until the heartbeat is missed and the poll has answered.
    "silent-death": (None, 20.0),
    # All packets are lost for a while: commands of that time run this long after its end.
    "outage": (None, 20.0),
    "captive": (None, None),
}
# A stream that has delivered nothing counts as a way at most until its probation ends (10 s).
UNPROVEN_S = 12.0
# A stream that delivered before, and is dead now: two heartbeats of 5 s and 10 s, or recovery by the agent within 20 s.
DEAD_S = 22.0
# Of the log's line about who answers for the hub.
PORTAL = ("captive portal", "sign-in page")
# The agent reports the end of a longer output (docs/agent.md).
OUTPUT_BYTES_MAX = 65_536
# A report that the proxy finds too long is sent again with less, and this often at most for each command.
REFUSALS_MAX = 6
# The share of the samples of the last seconds by which "what the hub shows in the end" is decided.
LAST_S = 2.0


@dataclass
class Verdict:
    faults: list = field(default_factory=list)  # each a sentence
    late: list = field(default_factory=list)  # the same, of those that a busy machine can cause
    measures: dict = field(default_factory=dict)

    @property
    def green(self):
        return not self.faults and not self.late

    @property
    def only_late(self):
        return bool(self.late) and not self.faults


def judge(record):
    verdict = Verdict()
    runs = {}
    for number, at in record["runs"]:
        runs.setdefault(number, []).append(at)
    sent = record["sent"]
    verdict.measures = measure(record, runs)
    refused = [one for one in sent if one["status"] not in (200, 202)]
    if refused or len(sent) != record["count"]:
        verdict.faults.append(f"the hub refused {len(refused)} of {len(sent)} sends: {refused[:1]}")
    if record["class"] == "captive":
        captive(record, runs, verdict)
    else:
        delivered(record, sent, runs, verdict)
        in_time(record, verdict)
        outputs(record, runs, verdict)
    shown(record, verdict)
    true_presence(record, runs, verdict)
    return verdict


def measure(record, runs):
    """First: from the agent's start. Latencies: of the commands sent once the first had run."""
    started = {number: min(times) for number, times in runs.items()}
    found = {"sent": len(record["sent"]), "ran": len(started), "twice": sum(len(times) > 1 for times in runs.values())}
    found["reported"] = sum(one["state"] == "succeeded" for one in record["sent"])
    found["shows"] = last_shown(record)
    found["first_s"] = found["p50_s"] = found["worst_s"] = None
    if started:
        first = min(started.values())
        found["first_s"] = round(first - record["agent_started"], 2)
        waits = [started[one["number"]] - since(record, one["at"]) for one in record["sent"] if one["number"] in started and one["at"] >= first]
        if waits:
            found["p50_s"] = round(statistics.median(waits), 2)
            found["worst_s"] = round(max(waits), 2)
    return found


def since(record, at):
    """From when a command sent at this time is late: what is sent in an outage is not late before its end."""
    healed = record.get("healed")
    lost = record.get("dropped")
    # The second before it too: its bytes may be on their way when the loss begins.
    return max(at, healed) if healed and lost and at >= lost - 1 else at


def delivered(record, sent, runs, verdict):
    lost = [one["number"] for one in sent if one["number"] not in runs]
    if lost:
        verdict.faults.append(f"{len(lost)} of {len(sent)} never ran: {brief(lost)}")
    twice = [number for number, times in sorted(runs.items()) if len(times) > 1]
    if twice:
        verdict.faults.append(f"run twice: {brief(twice)}")
    unreported = [one["number"] for one in sent if one["number"] in runs and one["state"] != "succeeded"]
    if unreported:
        verdict.faults.append(f"ran, but no result is at the hub: {brief(unreported)}")


def outputs(record, runs, verdict):
    """Of a long output the hub has the end: as much as the agent reports, or as the proxy lets through."""
    written = {number: wanted for number, wanted in record["written"].items() if number in record["outputs"] and int(number) in runs}
    for number, size in written.items():
        got, most = record["outputs"][number], record["body_max"]
        short = size > OUTPUT_BYTES_MAX or bool(most and size > most)
        right = got["bytes"] < most if most and short else got["bytes"] == min(size, OUTPUT_BYTES_MAX)
        if not right or got["truncated"] is not short:
            verdict.faults.append(f"of {size} bytes of output the hub has {got['bytes']}, truncated: {got['truncated']}")
    if record["refusals"] > REFUSALS_MAX * len(written):
        verdict.faults.append(f"reports that the proxy finds too long were sent {record['refusals']} times")


def in_time(record, verdict):
    found = verdict.measures
    if found["first_s"] is None:
        return
    if found["first_s"] > record["first_s_max"]:
        verdict.late.append(f"the first command ran {found['first_s']} s after the agent's start (at most {record['first_s_max']:g})")
    median, worst = LATENCY_S[record["class"]]
    if median is not None and (found["p50_s"] or 0) > median:
        verdict.late.append(f"median latency {found['p50_s']} s (at most {median:g})")
    if worst is not None and (found["worst_s"] or 0) > worst:
        verdict.late.append(f"worst latency {found['worst_s']} s (at most {worst:g})")


def captive(record, runs, verdict):
    if runs:
        verdict.faults.append(f"behind a captive portal {len(runs)} commands ran")
    if not any(words in line for line in record["log"] for words in PORTAL):
        verdict.faults.append("the agent's log does not say that a captive portal answers")


def last_shown(record):
    """What the hub shows in the end, or at the end of an outage: stream, poll or none, by the majority of samples."""
    end = record.get("healed") or record["ended"]
    votes = {}
    for at, online, transport, _ in record["samples"]:
        if end - LAST_S <= at <= end:
            name = transport if online else "none"
            votes[name] = votes.get(name, 0) + 1
    return max(votes, key=votes.get) if votes else "none"


def shown(record, verdict):
    last = verdict.measures["shows"]
    if last not in record["shows"]:
        verdict.faults.append(f"in the end the hub shows {last}, not {' or '.join(record['shows'])}")


def true_presence(record, runs, verdict):
    """No green light on a dead link."""
    times = sorted(at for several in runs.values() for at in several)
    began, key, unproven, dead = None, None, 0.0, 0.0
    for at, online, transport, connected in record["samples"]:
        if (online, transport, connected) != key:
            key, began = (online, transport, connected), at
        if not online or transport != "stream":
            continue
        waiting = oldest_waiting(record, runs, at)
        if waiting is None:
            continue
        # A connection that outlived an outage is alive again.
        waiting = max(waiting, record["healed"]) if record.get("healed") and at >= record["healed"] else waiting
        if not any(began - 1 <= time <= at for time in times):
            unproven = max(unproven, min(at - began, at - waiting))
        dead = max(dead, at - waiting)
    if unproven > UNPROVEN_S:
        verdict.faults.append(f"the hub shows it online on a stream by which nothing arrived for {unproven:.0f} s")
    elif dead > DEAD_S:
        verdict.faults.append(f"the hub shows it online on a stream while a command waited for {dead:.0f} s")


def oldest_waiting(record, runs, at):
    """When the oldest command was sent that had not run at this time."""
    waiting = [one["at"] for one in record["sent"] if one["at"] <= at and min(runs.get(one["number"], [at + 1])) > at]
    return min(waiting, default=None)


def brief(numbers):
    text = ", ".join(str(number) for number in numbers[:8])
    return text + (", …" if len(numbers) > 8 else "")
