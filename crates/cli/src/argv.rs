//! Reads a command line. Which word that begins with a minus sign is a value, and which is an option, is decided as by
//! Python's argparse: a negative number and a text with a blank (`-5`, `- milk`) are values, unless an option of the
//! program has that name. Everything else that looks like an option is one, and a mistake if the program does not have it: an
//! unknown flag must not become the data of a command.
//!
//! clap knows no such rule. So a value of that kind is moved to where clap takes it for one: behind `--`, or behind
//! the `=` of its option.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, Command, Parser};

use crate::output;

/// Reads the command line of this program.
///
/// # Errors
/// When there is nothing to do but to end: help, version or a mistake, which is printed.
pub fn parse<P: Parser>() -> Result<P, ExitCode> {
    try_parse(std::env::args_os()).map_err(|e| output::print_clap_error(&e).into())
}

/// Reads a command line; the first word is the program.
///
/// # Errors
/// Help, version or a mistake.
pub fn try_parse<P: Parser>(argv: impl IntoIterator<Item = OsString>) -> Result<P, clap::Error> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    // clap makes another description of all commands to parse: this one is freed before, for a hub never gives back the
    // memory that its start took.
    let argv = arranged(P::command(), &argv)?;
    P::try_parse_from(argv)
}

/// The same arguments as clap must have them. The description is not built, which would be larger still.
fn arranged(mut command: Command, argv: &[OsString]) -> Result<Vec<OsString>, clap::Error> {
    ArgSplitter::new(&command).arrange(argv).map_err(|unknown| {
        command.error(
            ErrorKind::UnknownArgument,
            format!(
                "unexpected argument '{unknown}' found\n\n  tip: to pass it as a value, use '-- {unknown}'"
            ),
        )
    })
}

/// What an argument that begins with a minus sign is.
#[derive(Debug, PartialEq, Eq)]
enum DashedArg {
    /// An option of the program, and whether the next word is its value.
    Option { takes_next: bool },
    /// An option of the program that takes all words that follow.
    TakesRest,
    /// A value.
    Value,
    /// An option that the program does not have.
    Unknown,
    /// Letters of which the first is an option of the program, and a later one is not.
    HalfKnown,
}

/// Splits a command line while it reads it: what stays where it is, and what goes behind `--`.
struct ArgSplitter<'a> {
    /// The subcommand that was reached.
    command: &'a Command,
    /// Those above it, whose global options are its own too.
    above: Vec<&'a Command>,
    /// The words that stay where they are.
    ahead: Vec<OsString>,
    /// The positional words from the first value with a minus sign on. None of them may stay before it: their order counts.
    behind: Vec<OsString>,
}

impl<'a> ArgSplitter<'a> {
    fn new(command: &'a Command) -> Self {
        Self { command, above: Vec::new(), ahead: Vec::new(), behind: Vec::new() }
    }

    /// The same words as clap must have them, or the one that is wrong.
    fn arrange(mut self, argv: &[OsString]) -> Result<Vec<OsString>, String> {
        let mut words = argv.iter();
        self.ahead.extend(words.next().cloned());
        let mut takes_next = false;
        while let Some(word) = words.next() {
            if word == "--" {
                self.behind.extend(words.cloned());
                return Ok(self.joined(true));
            }
            let expected = std::mem::take(&mut takes_next);
            let Some(text) = word.to_str().filter(|text| text.len() > 1 && text.starts_with('-'))
            else {
                self.plain(word, expected);
                continue;
            };
            match self.kind(text) {
                DashedArg::Value | DashedArg::Unknown
                    if expected && is_value_of_an_option(text) =>
                {
                    if let Some(option) = self.ahead.last_mut() {
                        option.push("=");
                        option.push(word);
                    }
                }
                // What must stand behind `--` cannot be joined by more.
                DashedArg::Value if self.command.get_positionals().any(Arg::is_last_set) => {
                    self.ahead.push(word.clone());
                }
                DashedArg::Value => self.behind.push(word.clone()),
                DashedArg::Option { takes_next: next } => {
                    takes_next = next;
                    self.ahead.push(word.clone());
                }
                DashedArg::TakesRest if self.behind.is_empty() => {
                    self.ahead.push(word.clone());
                    self.ahead.extend(words.cloned());
                    return Ok(self.ahead);
                }
                DashedArg::TakesRest => return Ok(argv.to_vec()),
                DashedArg::Unknown => self.ahead.push(word.clone()),
                DashedArg::HalfKnown => return Err(text.to_owned()),
            }
        }
        Ok(self.joined(false))
    }

    fn plain(&mut self, word: &OsStr, is_value_of_option: bool) {
        if is_value_of_option {
            self.ahead.push(word.to_owned());
        } else if self.behind.is_empty() {
            self.ahead.push(word.to_owned());
            if let Some(subcommand) = self.command.find_subcommand(word) {
                self.above.push(std::mem::replace(&mut self.command, subcommand));
            }
        } else {
            self.behind.push(word.to_owned());
        }
    }

    fn joined(self, has_dashes: bool) -> Vec<OsString> {
        let Self { mut ahead, behind, .. } = self;
        if has_dashes || !behind.is_empty() {
            ahead.push("--".into());
            ahead.extend(behind);
        }
        ahead
    }

    /// What a word is that begins with a minus sign and is longer than that.
    fn kind(&self, text: &str) -> DashedArg {
        match text.strip_prefix("--") {
            Some(long) => {
                let (name, value) = long.split_once('=').unzip();
                let name = name.unwrap_or(long);
                match self.option(|arg| arg.get_long() == Some(name)) {
                    Some(arg) if value.is_none() => takes(arg),
                    Some(_) => DashedArg::Option { takes_next: false },
                    None if matches!(name, "help" | "version") => {
                        DashedArg::Option { takes_next: false }
                    }
                    // A slip with a text behind it is a slip, too.
                    None if has_blank(name) => DashedArg::Value,
                    None => DashedArg::Unknown,
                }
            }
            None => self.letters(text),
        }
    }

    /// The same for a word with one minus sign: an option and perhaps its value, or several options without one.
    fn letters(&self, text: &str) -> DashedArg {
        let letters = text.strip_prefix('-').unwrap_or(text);
        for (at, letter) in letters.char_indices() {
            match self.option(|arg| arg.get_short() == Some(letter)) {
                Some(arg) if arg.get_action().takes_values() => {
                    return match takes(arg) {
                        kind if at + letter.len_utf8() == letters.len() => kind,
                        _ => DashedArg::Option { takes_next: false },
                    };
                }
                Some(_) => {}
                None if matches!(letter, 'h' | 'V') => {}
                None if is_number(letters) || has_blank(letters) => return DashedArg::Value,
                None if at == 0 => return DashedArg::Unknown,
                None => return DashedArg::HalfKnown,
            }
        }
        DashedArg::Option { takes_next: false }
    }

    /// An option that is declared; clap adds help and version by itself.
    fn option(&self, is_it: impl Fn(&Arg) -> bool) -> Option<&'a Arg> {
        let global = self.above.iter().flat_map(|above| above.get_arguments());
        let mut all = self.command.get_arguments().chain(global.filter(|arg| arg.is_global_set()));
        all.find(|arg| is_it(arg))
    }
}

/// What an option takes of the words after it.
fn takes(option: &Arg) -> DashedArg {
    if option.is_allow_hyphen_values_set() {
        DashedArg::TakesRest
    } else {
        DashedArg::Option { takes_next: option.get_action().takes_values() }
    }
}

/// Whether this is a number as of argparse, or one with an exponent; the minus sign before it is not part of it.
fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok()
}

/// Whether a word behind an option is its value: a value with a minus sign, or what was meant as one, as `-10m` is, so that
/// the option itself says what it takes. No option of any program is a digit.
fn is_value_of_an_option(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    has_blank(text) || unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
}

fn has_blank(text: &str) -> bool {
    text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Parser)]
    struct Args {
        #[command(subcommand)]
        command: Sub,
        #[arg(short, long, global = true)]
        verbose: bool,
    }

    #[derive(Debug, PartialEq, clap::Subcommand)]
    enum Sub {
        Send {
            device: String,
            data: Option<String>,
            #[arg(short, long)]
            ttl: Option<String>,
        },
        Listen {
            #[arg(long, num_args = 1.., allow_hyphen_values = true)]
            exec: Vec<String>,
        },
        On {
            name: String,
            #[arg(last = true)]
            argv: Vec<String>,
        },
    }

    fn read(words: &[&str]) -> Result<Args, ErrorKind> {
        let argv = std::iter::once("program").chain(words.iter().copied());
        try_parse(argv.map(OsString::from)).map_err(|e| e.kind())
    }

    fn send(words: &[&str]) -> Result<(String, Option<String>, Option<String>), ErrorKind> {
        match read(&[&["send"], words].concat())?.command {
            Sub::Send { device, data, ttl } => Ok((device, data, ttl)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_looks_like_an_option_is_no_value() {
        for word in ["-n", "-nv", "-vn", "-hello", "--dry-run", "--wat=30s", "--note=two words"] {
            for words in [&["dev", word][..], &["dev", word, "data"], &[word, "dev"]] {
                assert_eq!(send(words), Err(ErrorKind::UnknownArgument), "{words:?}");
            }
            let (_, data, _) = send(&["dev", "--", word]).unwrap();
            assert_eq!(data.as_deref(), Some(word));
        }
        assert_eq!(send(&["dev", "--ttl"]), Err(ErrorKind::InvalidValue));
        assert_eq!(send(&["dev", "--ttl", "--verbose"]), Err(ErrorKind::InvalidValue));
        assert_eq!(send(&["dev", "--help"]), Err(ErrorKind::DisplayHelp));
    }

    #[test]
    fn a_number_and_a_text_with_a_blank_are_values_wherever_they_stand() {
        let some = |text: &str| Some(text.to_owned());
        for word in ["-5", "-0.5", "-.5", "-1e3", "-5 dB", "- milk", "--no such", "-", "-verse two"]
        {
            let expected = Ok(("dev".to_owned(), some(word), some("1")));
            assert_eq!(send(&["dev", word, "--ttl", "1"]), expected);
            assert_eq!(send(&["-t1", "dev", word]), expected);
            assert_eq!(send(&["dev", "--ttl=1", "-v", word]), expected);
            let (device, data, ttl) = send(&["--ttl", word, "dev"]).unwrap();
            assert_eq!((device.as_str(), data, ttl), ("dev", None, some(word)));
            let (_, _, ttl) = send(&["dev", "-vt", word]).unwrap();
            assert_eq!(ttl, some(word));
        }
        let two = send(&["-1", "-2"]).unwrap();
        assert_eq!(two, ("-1".to_owned(), some("-2"), None), "in their order");
        assert_eq!(send(&["-1", "b"]).unwrap().1, some("b"));
    }

    #[test]
    fn what_an_option_takes_to_the_end_of_the_line_is_left_alone() {
        let read = |words: &[&str]| read(words).map(|args| args.command);
        let exec = ["run", "-5", "- x", "--", "--ttl", "-n"].map(str::to_owned).to_vec();
        assert_eq!(
            read(&["listen", "--exec", "run", "-5", "- x", "--", "--ttl", "-n"]),
            Ok(Sub::Listen { exec })
        );
        let argv = ["echo", "-5", "- x"].map(str::to_owned).to_vec();
        let on = Sub::On { name: "name".to_owned(), argv };
        assert_eq!(read(&["on", "name", "--", "echo", "-5", "- x"]), Ok(on));
        assert!(read(&["on", "- x", "--", "echo"]).is_err());
    }
}
