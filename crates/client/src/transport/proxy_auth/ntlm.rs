//! NTLM version 2, the client's side ([MS-NLMP], sections 2.2 and 3.3.2): two messages to the proxy, and one from it in between.
//!
//! It authenticates a connection, so that all of the exchange is on one. Neither signing nor sealing nor the integrity code
//! of the messages is done: HTTP proxies request none. Version 1 is not spoken, for it gives the password away.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::{Digest as _, Md4};
use md5::Md5;

use super::Credentials;

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// MS-NLMP, section 2.2.2.5: the strings are UTF-16, or in the machine's own code.
const UNICODE: u32 = 0x0000_0001;
const OEM: u32 = 0x0000_0002;
const REQUEST_TARGET: u32 = 0x0000_0004;
const NTLM: u32 = 0x0000_0200;
const ALWAYS_SIGN: u32 = 0x0000_8000;
const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
const TARGET_INFO: u32 = 0x0080_0000;
/// MS-NLMP, section 2.2.2.1: the kind of the pair with the proxy's clock.
const TIMESTAMP: u16 = 7;
/// From 1601 to 1970, in the 100 ns of a Windows time (MS-NLMP, section 2.2.2.7, uses FILETIME).
const UNIX_EPOCH_100_NS: u64 = 116_444_736_000_000_000;

/// NEGOTIATE_MESSAGE (MS-NLMP, section 2.2.1.1): without a domain and a name of this machine.
pub(super) fn negotiate() -> Vec<u8> {
    let flags = UNICODE | OEM | REQUEST_TARGET | NTLM | ALWAYS_SIGN | EXTENDED_SESSION_SECURITY;
    let mut message = SIGNATURE.to_vec();
    message.extend(1_u32.to_le_bytes());
    message.extend(flags.to_le_bytes());
    // Two empty strings, each by length, space and offset.
    message.extend([0; 16]);
    message
}

/// CHALLENGE_MESSAGE (MS-NLMP, section 2.2.1.2), as much of it as is used.
#[derive(Debug)]
pub(super) struct ChallengeMessage {
    flags: u32,
    nonce: [u8; 8],
    info: Vec<u8>,
}

impl ChallengeMessage {
    /// `None` when the bytes are something else.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let kind = u32::from_le_bytes(at(message, 8)?);
        if !message.starts_with(SIGNATURE) || kind != 2 {
            return None;
        }
        let flags = u32::from_le_bytes(at(message, 20)?);
        let info = match flags & TARGET_INFO {
            0 => Vec::new(),
            _ => {
                let length = usize::from(u16::from_le_bytes(at(message, 40)?));
                let offset = usize::try_from(u32::from_le_bytes(at(message, 44)?)).ok()?;
                message.get(offset..)?.get(..length)?.to_vec()
            }
        };
        Some(Self { flags, nonce: at(message, 24)?, info })
    }

    /// The proxy's own time: a device's clock may be wrong, and a domain refuses an answer that is older than it allows.
    fn time(&self) -> Option<[u8; 8]> {
        let mut rest = self.info.as_slice();
        loop {
            let kind = u16::from_le_bytes(at(rest, 0)?);
            let length = usize::from(u16::from_le_bytes(at(rest, 2)?));
            if kind == TIMESTAMP {
                return at(rest, 4);
            }
            if kind == 0 {
                return None;
            }
            rest = rest.get(4 + length..)?;
        }
    }

    /// AUTHENTICATE_MESSAGE (MS-NLMP, section 2.2.1.3) with the answer of NTLM version 2.
    pub(super) fn authenticate(
        &self,
        credentials: &Credentials,
        random: [u8; 8],
    ) -> Option<Vec<u8>> {
        let (domain, user) = match credentials.user.split_once('\\') {
            Some((domain, user)) => (domain, user),
            None => ("", credentials.user.as_str()),
        };
        let key = key(domain, user, &credentials.password)?;
        let clock = self.time();
        let (lm, nt) = self.answers(&key, clock.unwrap_or_else(now), random)?;
        // MS-NLMP, section 3.1.5.1.2: with the proxy's time there is no answer of the LM kind.
        let lm = if clock.is_some() { vec![0; 24] } else { lm };
        let unicode = self.flags & UNICODE != 0;
        let text = |text: &str| if unicode { utf16(text) } else { text.as_bytes().to_vec() };
        let fields = [lm, nt, text(domain), text(user), Vec::new(), Vec::new()];
        let flags = NTLM
            | if unicode { UNICODE } else { OEM }
            | self.flags & (REQUEST_TARGET | ALWAYS_SIGN | EXTENDED_SESSION_SECURITY | TARGET_INFO);
        let mut message = SIGNATURE.to_vec();
        message.extend(3_u32.to_le_bytes());
        // Signature, kind, six fields, flags.
        let mut offset = 8 + 4 + 6 * 8 + 4_usize;
        for field in &fields {
            let length = u16::try_from(field.len()).ok()?.to_le_bytes();
            message.extend(length);
            message.extend(length);
            message.extend(u32::try_from(offset).ok()?.to_le_bytes());
            offset += field.len();
        }
        message.extend(flags.to_le_bytes());
        message.extend(fields.concat());
        Some(message)
    }

    /// The answers of the kinds LM and NT (MS-NLMP, section 3.3.2).
    fn answers(&self, key: &[u8], time: [u8; 8], random: [u8; 8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut lm = hmac_md5(key, &[&self.nonce, &random])?.to_vec();
        lm.extend(random);
        let mut rest = vec![1, 1, 0, 0, 0, 0, 0, 0];
        rest.extend(time);
        rest.extend(random);
        rest.extend([0; 4]);
        rest.extend(&self.info);
        rest.extend([0; 4]);
        let mut nt = hmac_md5(key, &[&self.nonce, &rest])?.to_vec();
        nt.extend(rest);
        Some((lm, nt))
    }
}

/// NTOWFv2 (MS-NLMP, section 3.3.2).
fn key(domain: &str, user: &str, password: &str) -> Option<[u8; 16]> {
    let hash = Md4::digest(utf16(password));
    hmac_md5(&hash, &[&utf16(&user.to_uppercase()), &utf16(domain)])
}

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> Option<[u8; 16]> {
    let mut mac = Hmac::<Md5>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(part);
    }
    Some(mac.finalize().into_bytes().into())
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn now() -> [u8; 8] {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since_100_ns = since.unwrap_or_default().as_nanos() / 100;
    u64::try_from(since_100_ns).unwrap_or_default().saturating_add(UNIX_EPOCH_100_NS).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: [u8; 8] = [0xaa; 8];

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn credentials() -> Credentials {
        Credentials { user: "Domain\\User".into(), password: "Password".into() }
    }

    /// [MS-NLMP], section 4.2.4: the message of the server, with the names "Domain" and "Server".
    fn message() -> Vec<u8> {
        hex("4e544c4d53535000 02000000 0c000c0038000000 33828ae2 0123456789abcdef 0000000000000000
             24002400 44000000 060070170000000f 530065007200760065007200
             02000c0044006f006d00610069006e00 01000c005300650072007600650072 0000000000")
    }

    /// [MS-NLMP], sections 4.2.4.1.1 to 4.2.4.2.2.
    #[test]
    fn the_examples_of_the_specification() {
        let key = key("Domain", "User", "Password").unwrap();
        assert_eq!(key.to_vec(), hex("0c868a403bfd7a93a3001ef22ef02e3f"));
        let info = hex("02000c0044006f006d00610069006e0001000c005300650072007600650072000000 0000");
        let challenge = ChallengeMessage {
            flags: UNICODE | TARGET_INFO,
            nonce: [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef],
            info,
        };
        let (lm, nt) = challenge.answers(&key, [0; 8], RANDOM).unwrap();
        assert_eq!(lm, hex("86c35097ac9cec102554764a57cccc19 aaaaaaaaaaaaaaaa"));
        assert_eq!(&nt[..16], hex("68cd0ab851e51c96aabc927bebef6a1c"));
    }

    #[test]
    fn an_answer_has_its_fields_where_its_head_says() {
        let challenge = ChallengeMessage::parse(&message()).unwrap();
        let answer = challenge.authenticate(&credentials(), RANDOM).unwrap();
        assert_eq!(&answer[..12], b"NTLMSSP\0\x03\0\0\0");
        let field = |at: usize| {
            let length = usize::from(u16::from_le_bytes(super::at(&answer, at).unwrap()));
            let offset = u32::from_le_bytes(super::at(&answer, at + 4).unwrap()) as usize;
            answer[offset..offset + length].to_vec()
        };
        assert_eq!(field(28), utf16("Domain"));
        assert_eq!(field(36), utf16("User"));
        assert_eq!(field(12).len(), 24);
        let (_, expected) = challenge
            .answers(
                &key("Domain", "User", "Password").unwrap(),
                super::at(&field(20), 24).unwrap(),
                RANDOM,
            )
            .unwrap();
        assert_eq!(field(20), expected);
    }

    /// A device whose clock was of 1970 was refused by the domain.
    #[test]
    fn the_time_is_the_proxys_where_it_sends_one() {
        let mut challenge = ChallengeMessage::parse(&message()).unwrap();
        assert_eq!(challenge.time(), None);
        let end = challenge.info.len() - 4;
        challenge.info.splice(end..end, hex("0700 0800 1122334455667788"));
        let time = challenge.time().unwrap();
        assert_eq!(time.to_vec(), hex("1122334455667788"));
        let answer = challenge.authenticate(&credentials(), RANDOM).unwrap();
        assert!(answer.windows(8).any(|window| window == time));
        assert_eq!(answer[64..88], [0; 24], "no answer of the kind LM");
    }

    #[test]
    fn broken_messages_are_refused() {
        let whole = message();
        for length in 0..whole.len() {
            assert!(ChallengeMessage::parse(&whole[..length]).is_none(), "{length}");
        }
        let mut far = whole.clone();
        far[44..48].fill(0xff);
        assert!(ChallengeMessage::parse(&far).is_none());
        assert!(ChallengeMessage::parse(&negotiate()).is_none());
        // Pairs that end nowhere have no time.
        let endless = ChallengeMessage { flags: 0, nonce: [0; 8], info: hex("0200ffff00") };
        assert_eq!(endless.time(), None);
    }
}
