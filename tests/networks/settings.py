"""What the harness writes for hub and agent: every key of their configurations is here, and nowhere else."""

import json
from urllib.parse import quote, urlsplit, urlunsplit

DEVICE = "kiosk-1"
# The agent's `hub`: plain HTTP where https does not pass.
HUBS = ["https://hub.test", "http://hub.test"]
HUB_TOML = """\
listen = ["http://0.0.0.0:80", "https://0.0.0.0:443"]
tls_cert = "{dir}/pki/hub-srv.pem"
tls_key = "{dir}/pki/hub-srv.key"
open = true
data_dir = "{dir}/hub"
"""


def proxy_url(lab):
    """As an operator writes it: user and password in the URL."""
    url = lab["NETLAB_PROXY_URL"]
    if not url or not lab["NETLAB_PROXY_USER"]:
        return url
    parts = urlsplit(url)
    who = f"{quote(lab['NETLAB_PROXY_USER'], safe='')}:{quote(lab['NETLAB_PROXY_PASS'], safe='')}"
    return urlunsplit(parts._replace(netloc=f"{who}@{parts.netloc}"))


def agent_toml(scenario, lab, note):
    """`lab` are the NETLAB_* variables, `note` the handler's script by its action."""
    lines = [
        f"hub = {json.dumps(HUBS)}",
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
