//! Ids of commands, as people write and read them: in lists short, on the command line as much as is unambiguous.

use std::fmt;
use std::str::FromStr;

use crate::exit::Usage;
use bellwire_client::Controller;
use bellwire_client::api::Error;
use bellwire_proto::{Code, Command, CommandId, CommandIdPrefix, Problem};

/// Candidates that are listed for an ambiguous beginning.
const CANDIDATES_MAX: u32 = 10;
/// Digits of the beginning of an id by which a command is cancelled.
const DIGITS_MIN: usize = 4;
/// Characters of a short id: the millisecond, the version, and 12 random bits.
const SHORT_CHARS: usize = 18;

/// A command, by its id or the beginning of it.
#[derive(Debug, Clone)]
pub enum CommandRef {
    /// By its id.
    Id(CommandId),
    /// By the beginning of its id.
    Prefix(CommandIdPrefix),
}

impl FromStr for CommandRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefix: CommandIdPrefix = text.parse().map_err(|e| format!("{e}"))?;
        Ok(prefix.to_string().parse().map_or(Self::Prefix(prefix), Self::Id))
    }
}

impl CommandRef {
    /// Refuses a beginning so short that a slip may hit another command: for what cannot be undone.
    ///
    /// # Errors
    /// [`Usage`].
    pub(crate) fn check_length(&self) -> Result<(), Usage> {
        let Self::Prefix(prefix) = self else { return Ok(()) };
        let digits = prefix.to_string().bytes().filter(u8::is_ascii_hexdigit).count();
        if digits >= DIGITS_MIN {
            return Ok(());
        }
        Err(Usage(format!(
            "the id of a command is given by at least {DIGITS_MIN} digits: bellwire commands shows them"
        )))
    }

    /// The command that is meant. The hub is involved only for a beginning.
    ///
    /// # Errors
    /// `unknown_command`, or [`Ambiguous`].
    pub(crate) async fn find(&self, hub: &Controller) -> anyhow::Result<CommandId> {
        let prefix = match self {
            Self::Id(id) => return Ok(*id),
            Self::Prefix(prefix) => prefix,
        };
        // One more than is listed, to know whether there are more.
        let mut found = hub.commands_by_id(prefix, CANDIDATES_MAX + 1).await?;
        match found.as_slice() {
            [] => {
                let detail = format!("no command has an id that begins with {prefix}");
                let problem = Box::new(Problem::new(Code::UnknownCommand, detail));
                Err(Error::Refused { problem, retry_after: None }.into())
            }
            [command] => Ok(command.id),
            _ => {
                let more = found.len() > CANDIDATES_MAX as usize;
                found.truncate(CANDIDATES_MAX as usize);
                Err(Ambiguous { prefix: prefix.clone(), found, more }.into())
            }
        }
    }
}

/// Several commands have ids that begin so.
#[derive(Debug)]
pub(crate) struct Ambiguous {
    prefix: CommandIdPrefix,
    found: Vec<Command>,
    more: bool,
}

impl Ambiguous {
    /// The ids of the candidates.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.found.iter().map(|command| command.id.to_string()).collect()
    }
}

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "several commands have ids that begin with {}; which one?", self.prefix)?;
        for command in &self.found {
            let Command { id, action, created_at, .. } = command;
            write!(f, "\n  {id}  {action}, created {created_at}")?;
        }
        if self.more { f.write_str("\n  and others") } else { Ok(()) }
    }
}

impl std::error::Error for Ambiguous {}

/// Ids of one list in as many characters as distinguish them, all in the same number of them. (Two commands of one
/// millisecond share the first 18 characters of their ids once in 4,096 times.)
pub(crate) fn short_chars<'a>(ids: impl IntoIterator<Item = &'a CommandId>) -> usize {
    let mut texts: Vec<String> = ids.into_iter().map(ToString::to_string).collect();
    texts.sort_unstable();
    texts.dedup();
    let shared = |pair: &[String]| match pair {
        [a, b] => a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count(),
        _ => 0,
    };
    texts.windows(2).map(|pair| shared(pair) + 1).fold(SHORT_CHARS, usize::max)
}

/// An id in this many characters.
pub(crate) fn short(id: CommandId, chars: usize) -> String {
    id.to_string().chars().take(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_of_a_list_are_unambiguous_in_it() {
        let id = |n: u8| CommandId::from_parts(1_700_000_000_123, [7, 7, 7, 7, 7, 7, 7, 7, n, 0]);
        let chars = short_chars(&[id(1), id(2), id(1)]);
        assert!(short(id(1), chars) != short(id(2), chars) && chars < 36);
        assert_eq!(short(id(1), short_chars(&[id(1)])).len(), SHORT_CHARS);
    }

    #[test]
    fn an_id_is_written_whole_or_by_its_beginning() {
        let id = CommandId::from_parts(1_700_000_000_123, [7; 10]);
        let whole = id.to_string();
        assert!(matches!(whole.parse(), Ok(CommandRef::Id(read)) if read == id));
        let bare = whole.replace('-', "").to_uppercase();
        assert!(matches!(bare.parse(), Ok(CommandRef::Id(read)) if read == id));
        for beginning in ["018bcfe5", "018bcfe568", "018bcfe5-687b-7"] {
            assert!(matches!(beginning.parse(), Ok(CommandRef::Prefix(_))), "{beginning}");
        }
        for bad in ["", "kiosk", "018bcfe5-687b-7707-8707-0707070707070"] {
            assert!(bad.parse::<CommandRef>().is_err(), "{bad}");
        }
    }
}
