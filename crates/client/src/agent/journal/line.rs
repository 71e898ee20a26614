//! A line of the journal: a checksum, a space, JSON, a line feed.
//!
//! Lines, so that a person can read the file with what is on every appliance. JSON never has a raw
//! line feed in it, so one that was torn off cannot swallow its neighbour.

use serde::Serialize;

/// Characters of the checksum and the space behind it.
const PREFIX_BYTES: usize = 9;

/// The line that says `value`.
pub(super) fn encode(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = vec![b' '; PREFIX_BYTES];
    serde_json::to_writer(&mut line, value)?;
    let (prefix, json) = line.split_at_mut(PREFIX_BYTES);
    let sum = format!("{:08x}", crc32c(json));
    prefix.iter_mut().zip(sum.bytes()).for_each(|(to, from)| *to = from);
    line.push(b'\n');
    Ok(line)
}

/// The JSON of a whole line; `None` when it is torn or damaged.
pub(super) fn decode(line: &[u8]) -> Option<&str> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, json) = line.split_at_checked(PREFIX_BYTES)?;
    let sum = std::str::from_utf8(sum.strip_suffix(b" ")?).ok()?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (sum == crc32c(json)).then(|| std::str::from_utf8(json).ok()).flatten()
}

/// CRC-32C (Castagnoli), bit by bit: a record is short, and the disk is what takes the time.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn a_line_with_any_byte_changed_or_missing_is_none() {
        let line = encode(&["reboot", "né"]).unwrap();
        assert_eq!(decode(&line), Some(r#"["reboot","né"]"#));
        for at in 0..line.len() {
            assert_eq!(decode(&line[..at]), None, "cut at {at}");
            let mut changed = line.clone();
            changed[at] ^= 4;
            assert_eq!(decode(&changed), None, "changed at {at}");
        }
    }
}
