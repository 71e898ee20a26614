//! `bellwire completions` and `bellwire man`: made from the definitions in `args.rs`, so that they
//! cannot contain anything else.

use anyhow::Context as _;
use bellwire::output;
use clap::{Command, CommandFactory};

use super::complete;
use crate::args::Cli;
use crate::exit;

pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<u8> {
    let shells = clap_complete::env::Shells::builtins();
    let name = shell.to_string();
    let completer = shells.completer(&name).with_context(|| format!("{name} is not known"))?;
    let mut script = Vec::new();
    completer.write_registration(
        complete::VARIABLE,
        "bellwire",
        "bellwire",
        "bellwire",
        &mut script,
    )?;
    output::bytes(&script)?;
    Ok(exit::OK)
}

pub(crate) fn print(markdown: bool) -> anyhow::Result<u8> {
    let page = if markdown { self::markdown().into_bytes() } else { man()? };
    output::bytes(&page)?;
    Ok(exit::OK)
}

/// One page: the program, then a section for each subcommand, since there are no pages of their own to refer to.
fn man() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    let mut page = String::from_utf8_lossy(&page)
        .replace("bellwire\\-", "bellwire ")
        .replace("(1)\n", "\n")
        .replace(".SH EXTRA", ".SH \"EXIT STATUS\"");
    chapters(&mut page, "bellwire", &Cli::command())?;
    Ok(page.into_bytes())
}

fn chapters(page: &mut String, name: &str, command: &Command) -> std::io::Result<()> {
    for sub in subcommands(command) {
        let name = format!("{name} {}", sub.get_name());
        let man = clap_mangen::Man::new(sub.clone().bin_name(&name));
        let mut chapter = Vec::new();
        man.render_synopsis_section(&mut chapter)?;
        man.render_description_section(&mut chapter)?;
        man.render_options_section(&mut chapter)?;
        if sub.get_after_help().or(sub.get_after_long_help()).is_some() {
            man.render_extra_section(&mut chapter)?;
        }
        let chapter = String::from_utf8_lossy(&chapter)
            .replace(".SH EXTRA", ".SH NOTES")
            .replace(".SH ", ".SS ");
        page.push_str(&format!(".SH \"{}\"\n{chapter}", name.to_uppercase()));
        chapters(page, &name, sub)?;
    }
    Ok(())
}

/// `docs/cli.md`: what `--help` prints, for each subcommand.
pub(crate) fn markdown() -> String {
    let mut page = String::from(
        "# The command line\n\nWhat `--help` prints. This page is made by `bellwire man --markdown`, and a \
         test compares it with the program.\n",
    );
    section(&mut page, "bellwire", Cli::command());
    page
}

fn section(page: &mut String, name: &str, command: Command) {
    let mut shown = command.clone().bin_name(name).term_width(100);
    let help = shown.render_long_help().to_string();
    page.push_str(&format!("\n## {name}\n```text\n{}\n```\n", help.trim_end()));
    for sub in subcommands(&command) {
        section(page, &format!("{name} {}", sub.get_name()), sub.clone());
    }
}

/// In the order of the help.
fn subcommands(command: &Command) -> Vec<&Command> {
    let mut subcommands: Vec<_> =
        command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
    subcommands.sort_by_key(|sub| sub.get_display_order());
    subcommands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_on_disk_is_the_help_of_the_program() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/cli.md is out of date: cargo run -p bellwire -- man --markdown > docs/cli.md"
        );
    }

    /// Examples were broken at 100 columns without a backslash: what was copied was half a line.
    #[test]
    fn an_example_of_the_help_is_no_longer_than_a_line_of_the_manual() {
        fn check(command: &clap::Command) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = text.lines().skip_while(|line| !line.starts_with("Example"));
            for line in examples.skip(1).take_while(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= 100, "break it with a backslash: {line}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    /// A terminal of 80 columns broke each of its lines twice.
    #[test]
    fn a_paragraph_of_the_help_is_one_line_which_the_terminal_breaks() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
            for pair in text.lines().collect::<Vec<_>>().windows(2) {
                let broken = pair.iter().all(|line| is_prose(line));
                assert!(!broken, "the help of{path} breaks a paragraph itself: {pair:?}");
            }
            command.get_subcommands().for_each(|command| check(command, &path));
        }
        check(&Cli::command(), "");
    }
}
