"""What an idle appliance costs on the wire, by the kind of its network: bytes at its link, extrapolated to a day.

    python3 tests/networks/cost.py direct squid-plain lighttpd          as root; `--seconds 300` for each, side by side

The agent gets one command at first, to see that it is connected; counting begins when it has settled. The bytes are those of
the link: with the headers of Ethernet, IP and TCP, and both directions.
"""

import argparse
import concurrent.futures
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import scenario as scenarios
import settings
from run import LOGS, StateRoot, Suite, debug_program

SETTLE_S = 60
DAY_S = 86_400


def cost(suite, scenario, seconds):
    logs = LOGS / "cost" / scenario.name
    with contextlib.closing(suite.lab(scenario, logs)) as lab:
        agent_toml = lab.logs / "agent.toml"
        note = lab.logs / "note.sh"
        note.write_text("#!/bin/sh\n")
        agent_toml.write_text(settings.agent_toml(scenario, lab.vars, {"note": note}))
        lab.start("app", [suite.bellwire, "-v", "agent", "run", "--config", agent_toml], "agent.log")
        send = [suite.bellwire, "send", settings.DEVICE, "note", "--hub", "http://10.77.2.2", "--wait", "60s"]
        if lab.start("hub", send, "send.log").wait():
            return None
        time.sleep(SETTLE_S)  # until the way is proven and chosen
        before = link(lab)
        time.sleep(seconds)
        after = link(lab)
    return [round((b - a) * DAY_S / seconds) for a, b in zip(before, after)]


def link(lab):
    """Bytes received and sent, packets received and sent, at the appliance's link."""
    names = [f"/sys/class/net/eth0/statistics/{name}" for name in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")]
    line = ["ip", "netns", "exec", f"nl-{lab.name}-app", "cat", *names]
    return [int(text) for text in subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--bellwire", default=str(debug_program()), metavar="FILE")
    options = parser.parse_args()
    by_name = {one.name: one for one in scenarios.scenarios()}
    if unknown := [name for name in options.names if name not in by_name]:
        sys.exit(f"error: no scenario {', '.join(unknown)}")
    with StateRoot() as state_root, contextlib.closing(Suite(options.bellwire, state_root)) as suite:
        print(f"{'scenario':<22} {'MB a day':>9} {'received':>9} {'sent':>9} {'packets':>9}", flush=True)
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            found = {name: pool.submit(cost, suite, by_name[name], options.seconds) for name in options.names}
            for name, result in found.items():
                if (bytes_and_packets := result.result()) is None:
                    print(f"{name:<22} no way to the hub", flush=True)
                    continue
                received, sent, *packets = bytes_and_packets
                numbers = ((received + sent) / 1e6, received / 1e6, sent / 1e6)
                print(f"{name:<22} " + " ".join(f"{one:>9.2f}" for one in numbers) + f" {sum(packets):>9}", flush=True)


if __name__ == "__main__":
    main()
