"""What the harness writes for hub and agent: every key of their configurations is here, and nowhere else.

`Abilities` finds out what this program can be told, so that the same scenarios run with a hub that has one listener and an
agent that has one URL (then a TLS front stands before the hub, and each scenario is tried over https, then http).
"""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

HERE = Path(__file__).resolve().parent
DEVICE = "kiosk-1"
TLS = 'tls_cert = "{dir}/pki/hub-srv.pem"\ntls_key = "{dir}/pki/hub-srv.key"\n'


@dataclass
class Abilities:
    """Of the program under test."""

    listeners: bool  # `listen` takes http:// and https:// at once
    hubs: bool  # the agent's `hub` is a list

    @classmethod
    def of(cls, bellwire):
        with tempfile.TemporaryDirectory() as folder:
            agent = Path(folder, "agent.toml")
            agent.write_text(f'hub = ["https://hub.test", "http://hub.test"]\ndevice = "{DEVICE}"\nstate_dir = "{folder}/state"\n')
            hub = Path(folder, "hub.toml")
            hub.write_text(f'listen = ["http://127.0.0.1:0"]\ndata_dir = "{folder}/data"\n')
            listeners = "listen is" not in output(bellwire, "config", "check", "--config", str(hub))
            return cls(listeners, "hub is [" not in output(bellwire, "agent", "check", "--config", str(agent)))

    def ways(self):
        """The values of the agent's `hub` to try, in order; a scenario is green if one of them is."""
        both = ["https://hub.test", "http://hub.test"]
        return [both] if self.hubs else [[url] for url in both]


def output(*line):
    result = subprocess.run(line, capture_output=True, text=True)
    return result.stdout + result.stderr


def hub_toml(abilities, folder):
    if abilities.listeners:
        text = 'listen = ["http://0.0.0.0:80", "https://0.0.0.0:443"]\n' + TLS.format(dir=folder)
    else:
        text = 'listen = ["0.0.0.0:80"]\n'
    return text + f'open = true\ndata_dir = "{folder}/hub"\n'


def hub_command(abilities, bellwire, config):
    """A line of shell: `netlab --hub` runs it in the hub's namespace."""
    serve = f"{bellwire} serve --config {config}"
    if abilities.listeners:
        return serve
    return f"{serve} & exec python3 {HERE}/tls_front.py 443 80 $NETLAB_TLS_CERT $NETLAB_TLS_KEY"


def proxy_url(lab):
    """As an operator writes it: user and password in the URL."""
    url = lab["NETLAB_PROXY_URL"]
    if not url or not lab["NETLAB_PROXY_USER"]:
        return url
    parts = urlsplit(url)
    who = f"{quote(lab['NETLAB_PROXY_USER'], safe='')}:{quote(lab['NETLAB_PROXY_PASS'], safe='')}"
    return urlunsplit(parts._replace(netloc=f"{who}@{parts.netloc}"))


def agent_toml(scenario, lab, hubs, note):
    """`lab` are the NETLAB_* variables, `hubs` one of `Abilities.ways`, `note` the handler's script."""
    lines = [
        f"hub = {json.dumps(hubs if len(hubs) > 1 else hubs[0])}",
        f'device = "{DEVICE}"',
        f'state_dir = "{lab["NETLAB_STATE"]}/{lab["NETLAB_NAME"]}/agent"',
        f'ca_file = "{lab["NETLAB_CA"]}"',
    ]
    if proxy := proxy_url(lab):
        lines.append(f'proxy = "{proxy}"')
    if scenario.kind_class == "outage":
        lines.append('heartbeat = "5s"')  # so that the hub knows within 20 s, and the scenario is short
    for name, script in note.items():
        lines += ["", f"[actions.{name}]", f'run = ["/bin/sh", "{script}"]']
    return "\n".join(lines) + "\n"
