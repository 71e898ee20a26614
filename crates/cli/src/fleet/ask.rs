//! Questions on a terminal. Without one the command line has to have the answer.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::exit::Usage;

/// Whether there is a terminal on which a person can answer.
pub(crate) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks whether to go on, and takes everything but a yes for a no.
///
/// # Errors
/// When there is no such terminal.
pub(crate) fn go_on(nothing_was: &str) -> anyhow::Result<bool> {
    if !is_possible() {
        let why = "this concerns several appliances: add --yes, or --dry-run to see which";
        return Err(Usage(why.into()).into());
    }
    let yes = matches!(answer("Go on? [y/N] ")?.as_str(), "y" | "Y" | "yes");
    if !yes {
        crate::out::note(nothing_was);
    }
    Ok(yes)
}

/// Asks, and waits for a line.
pub(crate) fn answer(question: &str) -> io::Result<String> {
    {
        let mut screen = io::stderr().lock();
        write!(screen, "{question}")?;
        screen.flush()?;
    }
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}
