"""The stanzas of docs/networks.md and docs/operations.md, each as it stands there in the lab's program: more scenarios.

Only names, addresses and paths are put in place of the page's, and the lab's frame around it (where files go, how many
workers, modules). @ST@ and @HUB@ are filled in by the lab.
"""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "tests/netlab/conf"
CERTIFICATE = ("/etc/ssl/hub.pem", "@ST@/pki/hub-srv.pem")
KEY = ("/etc/ssl/hub.key", "@ST@/pki/hub-srv.key")
BOTH = ("/etc/ssl/hub.both.pem", "@ST@/pki/hub-both.pem")
NAME = ("hub.example.com", "hub.test")
HUB = ("127.0.0.1:8888", "@HUB@:80")
APACHE_MODULES = "mpm_event authz_core proxy proxy_http socache_shmcb ssl env setenvif headers"

NGINX = """daemon off;
user root;
worker_processes 1;
pid @ST@/nginx.pid;
error_log @ST@/log/nginx.log;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path @ST@/ngx-b; proxy_temp_path @ST@/ngx-p; fastcgi_temp_path @ST@/ngx-f;
  uwsgi_temp_path @ST@/ngx-u; scgi_temp_path @ST@/ngx-s;
  server { listen 80; return 404; }
%s
}
"""
HAPROXY = "global\n  maxconn 200\nfrontend plain\n  mode http\n  bind :80\n  timeout client 5s\n  http-request deny\n%s\n"
CADDY = "{\n  admin off\n  auto_https disable_redirects\n}\nhttp://:80 {\n  respond 404\n}\n%s"
APACHE = (
    """ServerRoot /usr/lib/apache2
ServerName proxy.test
Listen 80
Listen 443
PidFile @ST@/apache.pid
DefaultRuntimeDir @ST@
ErrorLog @ST@/log/apache.log
"""
    + "".join(f"LoadModule {name}_module modules/mod_{name}.so\n" for name in APACHE_MODULES.split())
    + "%s\n"
)
LIGHTTPD = """server.document-root = "@ST@"
server.port = 80
server.errorlog = "@ST@/log/lighttpd.log"
server.upload-dirs = ("@ST@")
%s
"""

# The lab's Squid intercepts TLS; the stanza takes the place of the line that says so.
SQUID = (CONF / "squid-bump.conf").read_text().replace("ssl_bump bump all\n", "%s")

# What the appliance then has to trust, where it is not what the lab's scenario says.
TRUST = {"squid": "hub"}

# stanza: the page, the lab's scenario whose program it is for, the frame, what is put in place of the page's.
STANZAS = {
    "nginx": ("operations", "nginx-stream", NGINX, [CERTIFICATE, KEY, NAME, HUB]),
    "caddy": (
        "operations",
        "caddy",
        CADDY,
        [("hub.example.com {", "https://hub.test {\n    tls @ST@/pki/hub-srv.pem @ST@/pki/hub-srv.key"), HUB],
    ),
    "haproxy": ("networks", "haproxy-timeout", HAPROXY, [BOTH, HUB]),
    "apache": ("networks", "apache-reverse", APACHE, [CERTIFICATE, KEY, NAME, HUB]),
    "varnish": ("networks", "varnish", "%s", [('.host = "127.0.0.1"', '.host = "@HUB@"'), ('.port = "8888"', '.port = "80"')]),
    "squid": ("networks", "squid-bump", SQUID, [NAME]),
    "lighttpd": ("networks", "lighttpd", LIGHTTPD, [('"host" => "127.0.0.1"', '"host" => "@HUB@"'), ('"port" => 8888', '"port" => 80')]),
}


def stanza(page, name):
    """The fenced block of the page after the line `<!-- ci: NAME -->`."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    found = re.search(rf"<!-- ci: {name} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found, f"docs/{page}.md has no stanza {name}"
    return found[1]


def replaced(text, pairs, where):
    for old, new in pairs:
        assert old in text, f"the stanza {where} has no {old!r}"
        text = text.replace(old, new)
    return text


def scenarios(known):
    """A scenario for each stanza: a streaming network, whatever the program does by default."""
    by_name = {one.name: one for one in known}
    found = []
    for name, (page, lab, frame, pairs) in STANZAS.items():
        conf = frame.replace("%s", replaced(stanza(page, name), pairs, name))
        about = f"the stanza for {name} of docs/{page}.md"
        changes = {"name": f"docs-{name}", "conf": conf, "about": about, "kind_class": "streaming", "shows": ["stream"], "trust": TRUST.get(name, "")}
        found.append(dataclasses.replace(by_name[lab], **changes))
    return found
