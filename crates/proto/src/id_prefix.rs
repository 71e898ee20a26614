//! The beginning of a command's id, by which people name a command. Contract, section 3.

use std::fmt;
use std::str::FromStr;

/// Text that cannot begin a command's id; its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a command is named by its id, or by the beginning of it: digits 0-9 a-f, with or without hyphens"
)]
pub struct InvalidPrefix;

/// The first 1 to 32 hexadecimal digits of a command's id.
///
/// ```
/// use bellwire_proto::CommandIdPrefix;
/// let prefix: CommandIdPrefix = "0190F3C48d1e7".parse()?;
/// assert_eq!(prefix.to_string(), "0190f3c4-8d1e-7");
/// # Ok::<(), bellwire_proto::id_prefix::InvalidPrefix>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandIdPrefix {
    /// Hexadecimal digits in lower case.
    digits: String,
}

/// Digits of an id.
const DIGITS: usize = 32;

impl CommandIdPrefix {
    /// The first and the last 16 bytes that begin so.
    pub fn bounds(&self) -> ([u8; 16], [u8; 16]) {
        let filled = |with: &str| {
            let missing = DIGITS.saturating_sub(self.digits.len());
            let digits = format!("{}{}", self.digits, with.repeat(missing));
            u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
        };
        (filled("0"), filled("f"))
    }
}

impl FromStr for CommandIdPrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let digits = text.replace('-', "").to_ascii_lowercase();
        let hyphens_max = 4;
        let fits = (1..=DIGITS).contains(&digits.len()) && text.len() <= DIGITS + hyphens_max;
        if fits && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self { digits })
        } else {
            Err(InvalidPrefix)
        }
    }
}

/// With the hyphens of an id.
impl fmt::Display for CommandIdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, digit) in self.digits.chars().enumerate() {
            if [8, 12, 16, 20].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CommandId;

    #[test]
    fn the_bounds_of_a_prefix_enclose_the_ids_that_begin_so_and_no_others() {
        let id = CommandId::from_parts(1_700_000_000_123, [0xAB; 10]);
        let text = id.to_string();
        for length in 1..=text.len() {
            let prefix: CommandIdPrefix = text[..length].parse().unwrap();
            let (first, last) = prefix.bounds();
            assert!((first..=last).contains(&id.to_bytes()), "{prefix}");
            let again = prefix.to_string();
            assert_eq!(again, text[..length].trim_end_matches('-'), "{length}");
        }
        let other: CommandIdPrefix = "018bcfe5-687c".parse().unwrap();
        let (first, last) = other.bounds();
        assert!(!(first..=last).contains(&id.to_bytes()));
    }

    #[test]
    fn what_cannot_begin_an_id_is_refused() {
        for bad in ["", "-", "g", "018bcfe5 ", "é", &"0".repeat(33), &"-".repeat(40)] {
            assert_eq!(bad.parse::<CommandIdPrefix>(), Err(InvalidPrefix), "{bad:?}");
        }
    }
}
