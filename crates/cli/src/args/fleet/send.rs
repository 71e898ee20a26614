//! `bellwire send` of the whole program: in a maintenance window, and to many: to which appliances, and how it is rolled out.

use bellwire_proto::{DeviceId, Selector, Window};
use clap::{Arg, ArgGroup, Args};

use super::batches::Batches;
use super::selector_of_some;
use super::window::WindowArgs;
use crate::args::{HubArg, SEND_HELP, SendArgs};

/// The help about sending to many, and its examples; between them is the help about sending to one.
const MANY_HELP: &str = "\
With -l, --device or --all, how many appliances it is for is shown first, and on a terminal the program asks whether to go on. With --wait a bar for each \
state shows how far it is; then comes a table of what failed, with the last line that was printed there. Ctrl-C asks whether to leave it, \
to pause its rollout or to abort it. The exit code is that of the worst outcome: 1 before 3 before 4. A command that matches no \
appliance is not sent, and the exit code is 1.";
const MANY_EXAMPLES: &str =
    "  bellwire send kiosk-7 update 2.3 --ttl 24h --window '0 2 * * *' --window-for 2h \\
    --timezone Europe/Paris
  bellwire send -l 'site=lyon,!spare' reboot --dry-run
  bellwire send --device kiosk-7 --device kiosk-8 update 2.3 --yes
  bellwire send -l os=deb12 update 2.3 --canary role=canary --batch 10% --abort 20% --wait
  bellwire send --all ping --yes --wait 5m";

/// `bellwire send`, with what that of the small program has not.
#[derive(Debug, Args)]
#[command(
    after_help = format!("{MANY_HELP}\n\n{SEND_HELP}\n{MANY_EXAMPLES}"),
    override_usage = "\
bellwire send [OPTIONS] <DEVICE> <ACTION> [DATA]
       bellwire send [OPTIONS] <-l SELECTOR|--device NAME …|--all> <ACTION> [DATA]",
    mut_args = beside_many
)]
pub struct FleetSend {
    /// What is sent; with -l, --device or --all its first word is the action.
    #[command(flatten)]
    pub send: SendArgs,
    /// In a maintenance window.
    #[command(flatten)]
    pub window: WindowArgs,
    /// The zone in whose local time --window is, by its name in the IANA database [default: UTC].
    #[arg(long, value_name = "ZONE", requires = "window")]
    pub timezone: Option<String>,
    /// To many appliances.
    #[command(flatten)]
    pub many: Many,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

impl FleetSend {
    /// The maintenance window in which it is sent.
    pub fn window(&self) -> Option<Window> {
        self.window.in_zone(self.timezone.as_deref().unwrap_or("UTC"))
    }
}

/// An argument of sending to one, where it may be to many.
fn beside_many(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "device" => arg.help(
            "The appliance; not with -l, --device or --all, where the action is the first word",
        ),
        "action" => arg.required(false).required_unless_present("to_many"),
        "known" => arg.conflicts_with("to_many"),
        _ => arg,
    }
}

/// Of `bellwire send`, what concerns many appliances.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("to_many").args(["select", "devices", "all"]))]
pub struct Many {
    /// To all appliances that match when the command is stored, in place of one.
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = selector_of_some)]
    pub select: Option<Selector>,
    /// To this appliance; may be given several times, for one command to all of them.
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<DeviceId>,
    /// To every appliance that is registered.
    #[arg(long)]
    pub all: bool,
    /// Do not ask. Without a terminal to ask on, nothing is sent to many without it.
    #[arg(short, long)]
    pub yes: bool,
    /// Send nothing: only list the appliances.
    #[arg(long)]
    pub dry_run: bool,
    /// How it is rolled out.
    #[command(flatten)]
    pub batches: Batches,
}

impl Many {
    /// Whether the command is for many.
    pub fn is_meant(&self) -> bool {
        self.all || self.select.is_some() || !self.devices.is_empty()
    }

    /// The options that say which, as they were given.
    pub fn given(&self) -> String {
        match (&self.select, self.devices.as_slice()) {
            (Some(select), _) => format!("-l '{select}'"),
            (None, []) => "--all".to_owned(),
            (None, devices) => {
                let given: Vec<_> = devices.iter().map(|name| format!("--device {name}")).collect();
                given.join(" ")
            }
        }
    }
}
