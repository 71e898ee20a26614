//! Which hub, with which credentials: the options of everything that talks to one. What they mean together is decided in
//! `connect.rs`; nothing is read here, so that a flag and a variable can be distinguished there.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which hub, for everything that talks to one.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Hub")]
pub struct HubArg {
    /// Where the hub is [env: BELLWIRE_HUB] [default: that of the context, or http://127.0.0.1:8888].
    /// Several URLs of one hub, with a comma between them, are tried in order. HTTP_PROXY, HTTPS_PROXY and NO_PROXY are honoured.
    #[arg(long, value_name = "URL", conflicts_with = "context")]
    pub hub: Option<String>,
    /// The hub of this context: see `bellwire context` [env: BELLWIRE_CONTEXT].
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The file that contains the token; `-` reads standard input [env: BELLWIRE_TOKEN_FILE; BELLWIRE_TOKEN is the token itself].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Also trust the authorities in this PEM file [env: BELLWIRE_CA_FILE].
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// `bellwire context`.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// Add a hub under a name.
    #[command(after_help = "\
Examples:
  bellwire context add prod https://hub.example.com --token-file ~/.bellwire-token --use
  pass show bellwire | bellwire context add prod https://hub.example.com --token-file -")]
    Add(ContextAdd),
    /// Use this context wherever no other hub is named.
    #[command(after_help = "Example:\n  bellwire context use prod")]
    Use {
        /// Its name.
        name: String,
    },
    /// List the contexts; the one in use is marked.
    #[command(after_help = "Example:\n  bellwire context list")]
    List,
    /// Remove a context. The hub is not involved.
    #[command(after_help = "Example:\n  bellwire context remove prod")]
    Remove {
        /// Its name.
        name: String,
    },
}

/// `bellwire context add`.
#[derive(Debug, Args)]
pub struct ContextAdd {
    /// Its name: letters, digits and . _ -
    pub name: String,
    /// Where the hub is; several URLs of one hub, with a comma between them, are tried in order.
    #[arg(value_name = "URL")]
    pub hub: String,
    /// The file that contains the token, read each time; with `-` the token is read from standard input and stored.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Also trust the authorities in this PEM file.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Use it from now on.
    #[arg(long = "use")]
    pub use_it: bool,
    /// Replace the context of this name.
    #[arg(long)]
    pub replace: bool,
}
