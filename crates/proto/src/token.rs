//! Tokens as their holders send them: `bw_<id>_<secret>`. Contract, section 6, "Tokens".
//!
//! The id is public: it names the token in lists, logs and `created_by`. The secret is 256 random bits. Nothing here
//! prints it but [`Credential::expose`], so that no log, error or debug output can show it by accident. What a token may
//! do is in `role.rs`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Characters of a token's id: 80 bits, five to a character.
const ID_CHARS: usize = 16;
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// The alphabet of ids: base32 (RFC 4648, section 6) in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// How the text of a token begins.
const PREFIX: &str = "bw_";

/// The public name of a token: 16 of `a-z 2-7`.
///
/// ```
/// use bellwire_proto::TokenId;
/// let id = TokenId::from_random([0xff; 10]);
/// assert_eq!(id.as_str(), "7777777777777777");
/// assert_eq!("7777777777777777".parse(), Ok(id));
/// assert!("7777".parse::<TokenId>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; ID_CHARS]);

/// A token as its holder sends it: its id and its secret.
///
/// ```
/// use bellwire_proto::Credential;
/// let made = Credential::from_random([1; 10], [2; 32]);
/// let text = made.expose();
/// assert!(text.starts_with("bw_") && text.len() == 84);
/// assert_eq!(text.parse::<Credential>()?.id(), made.id());
/// assert!(!format!("{made:?} {made}").contains("0202"));
/// # Ok::<(), bellwire_proto::token::InvalidToken>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    id: TokenId,
    secret: [u8; SECRET_BYTES],
}

/// The text is no token, or no id of one. The message never repeats the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidToken {
    /// Not the text of a token.
    #[error("a token is bw_, 16 of a-z 2-7, _ and 64 of 0-9 a-f")]
    Token,
    /// Not the id of a token.
    #[error("the id of a token is 16 of a-z 2-7")]
    Id,
}

impl TokenId {
    /// The id that these random bits make.
    pub fn from_random(random: [u8; 10]) -> Self {
        let mut id = [0; ID_CHARS];
        let (mut bits, mut held) = (0u32, 0u32);
        let mut bytes = random.iter();
        for letter in &mut id {
            if held < 5 {
                bits = (bits << 8) | u32::from(bytes.next().copied().unwrap_or_default());
                held += 8;
            }
            held -= 5;
            let index = (bits >> held) as usize & 31;
            *letter = ALPHABET.get(index).copied().unwrap_or(b'a');
        }
        Self(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for TokenId {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let id: [u8; ID_CHARS] = text.as_bytes().try_into().map_err(|_| InvalidToken::Id)?;
        // The alphabet, without a search in it for each letter: every request with a token has one.
        let is_letter = |byte: &u8| matches!(byte, b'a'..=b'z' | b'2'..=b'7');
        id.iter().all(is_letter).then_some(Self(id)).ok_or(InvalidToken::Id)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for TokenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Credential {
    /// The token that these random bits make.
    pub fn from_random(id: [u8; 10], secret: [u8; SECRET_BYTES]) -> Self {
        Self { id: TokenId::from_random(id), secret }
    }

    /// Its public name.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The secret, to be hashed and for nothing else.
    pub fn secret(&self) -> &[u8; SECRET_BYTES] {
        &self.secret
    }

    /// The whole text, secret included: to be shown once, or sent.
    pub fn expose(&self) -> String {
        let mut text = format!("{PREFIX}{}_", self.id);
        for byte in self.secret {
            for half in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
            }
        }
        text
    }
}

impl FromStr for Credential {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
        let (id, hex) = parts.ok_or(InvalidToken::Token)?;
        let id = id.parse().map_err(|_| InvalidToken::Token)?;
        let hex: &[u8; 2 * SECRET_BYTES] =
            hex.as_bytes().try_into().map_err(|_| InvalidToken::Token)?;
        let mut secret = [0; SECRET_BYTES];
        for (byte, pair) in secret.iter_mut().zip(hex.chunks_exact(2)) {
            for digit in pair {
                // One token has one text: capitals are none of it.
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(InvalidToken::Token),
                };
                *byte = (*byte << 4) | value;
            }
        }
        Ok(Self { id, secret })
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_***", self.id)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_text_and_anything_else_is_none() {
        let token = Credential::from_random([0x12; 10], [0xab; 32]);
        let text = token.expose();
        assert_eq!(text.parse::<Credential>().unwrap(), token);
        let id = token.id();
        for bad in [
            String::new(),
            text.to_uppercase(),
            text.replacen("ab", "AB", 1),
            format!("{text}0"),
            text[..text.len() - 1].to_owned(),
            format!(" {text}"),
            text.replacen("bw_", "bx_", 1),
            format!("bw_{id}"),
            format!("bw_{}_{}", "a".repeat(15), "0".repeat(64)),
            format!("bw_{}_{}", "1".repeat(16), "0".repeat(64)),
            format!("bw_{id}_{}", "é".repeat(32)),
        ] {
            let refused = bad.parse::<Credential>().unwrap_err();
            assert!(!refused.to_string().contains("abab"), "{refused}");
        }
    }

    #[test]
    fn a_secret_is_printed_by_nothing_but_expose() {
        let token = Credential::from_random([7; 10], [0xab; 32]);
        let shown = format!("{token} {token:?} {:#?}", Some(&token));
        assert!(!shown.contains("abab"), "{shown}");
        assert!(shown.contains(token.id().as_str()), "{shown}");
    }

    #[test]
    fn ids_use_every_bit() {
        assert_eq!(TokenId::from_random([0; 10]).as_str(), "aaaaaaaaaaaaaaaa");
        let ids: std::collections::BTreeSet<_> = (0..80)
            .map(|bit| {
                let mut random = [0; 10];
                random[bit / 8] |= 1 << (bit % 8);
                TokenId::from_random(random)
            })
            .collect();
        assert_eq!(ids.len(), 80);
    }
}
