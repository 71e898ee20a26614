//! `bellwire doctor`: which ways to the hub to examine, and how long.

use std::path::PathBuf;

use bellwire_proto::Seconds;
use clap::Args;

/// `bellwire doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
It examines each of the URLs through each of the proxies, as the agent would use them: name, TCP, the proxy and its \
authentication, TLS and the issuer of the certificate, ping, stream, the lag of what the hub writes into it, and the long poll. \
It needs no token, takes no appliance's place and runs nothing. What is in the way is explained, with a sentence for the owner of \
the network, and in the end the best way is named as lines for agent.toml. User and password of a proxy are never printed.

A way takes about 10 s, and up to a minute where the network is silent; with --idle it takes that time more.

Examples:
  bellwire doctor --hub https://hub.example.com --hub http://hub.example.com
  HTTPS_PROXY=http://user:password@proxy:3128 bellwire doctor --hub https://hub.example.com \\
    --proxy environment --proxy none
  bellwire doctor --idle 60s
  bellwire doctor --json | jq .verdict

Exit codes:
  0  a stream works: commands arrive at once
  1  only the long poll works, or the hub is too old for the test of a stream: commands arrive all the same
  2  usage
  6  nothing works")]
pub struct Doctor {
    /// Where the hub is; may be given several times, the best first [env: BELLWIRE_HUB] [default: that of the context in use, or
    /// http://127.0.0.1:8888].
    #[arg(long, value_name = "URL")]
    pub hub: Vec<String>,
    /// A proxy: a URL, environment, none, or a PAC file as pac+http://… or pac+file:///…; may be given several times, the best
    /// first [default: environment].
    #[arg(long, value_name = "PROXY")]
    pub proxy: Vec<String>,
    /// Also trust the authorities in this PEM file [env: BELLWIRE_CA_FILE].
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Also find out whether a connection on which nothing passes for so long (5s to 10m) stays open.
    #[arg(long, value_name = "DURATION")]
    pub idle: Option<Seconds>,
}
