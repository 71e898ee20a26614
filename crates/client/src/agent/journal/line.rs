//! A line of the journal: a checksum, a space, JSON, a line feed.
//!
//! It is text, so that a person can read the file with the tools of any appliance. JSON never contains a raw line
//! feed, so a torn line cannot extend over the next one.

use serde::Serialize;

/// Characters of the checksum and the space after it.
const PREFIX_BYTES: usize = 9;
/// How many positions of a bad line are tried as the start of a good one. A line without its line feed has one or
/// two; data that resemble a start must not cost a pass each.
const STARTS_MAX: usize = 64;

/// `value` as a line.
pub(super) fn encode(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = vec![b' '; PREFIX_BYTES];
    serde_json::to_writer(&mut line, value)?;
    let (prefix, json) = line.split_at_mut(PREFIX_BYTES);
    let sum = format!("{:08x}", crc32c(json));
    prefix.iter_mut().zip(sum.bytes()).for_each(|(to, from)| *to = from);
    line.push(b'\n');
    Ok(line)
}

/// The JSON of a whole line; `None` if it is torn or damaged.
pub(super) fn decode(line: &[u8]) -> Option<&str> {
    let (sum, json) = line.strip_suffix(b"\n")?.split_at_checked(PREFIX_BYTES)?;
    let is_right = sum == format!("{:08x} ", crc32c(json)).as_bytes();
    is_right.then(|| std::str::from_utf8(json).ok()).flatten()
}

/// Where in a bad line a good one begins, because the line feed between the two was lost.
pub(super) fn good_end(line: &[u8]) -> Option<usize> {
    let is_start = |window: &[u8]| {
        window.strip_suffix(b" [").is_some_and(|sum| sum.iter().all(u8::is_ascii_hexdigit))
    };
    let starts = line.windows(PREFIX_BYTES + 1).enumerate().skip(1);
    let mut starts = starts.filter(|(_, window)| is_start(window)).map(|(at, _)| at);
    starts.by_ref().take(STARTS_MAX).find(|at| line.get(*at..).and_then(decode).is_some())
}

/// CRC-32C (Castagnoli), one byte at a time. With a table of 1 KiB it is as fast as the JSON parser; faster
/// methods need a dependency with code for each processor.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        let [low, ..] = crc.to_le_bytes();
        #[expect(clippy::indexing_slicing, reason = "a byte is always inside of 256")]
        let of_byte = CRC_OF_BYTE[usize::from(low ^ byte)];
        crc >> 8 ^ of_byte
    })
}

static CRC_OF_BYTE: [u32; 256] = crc_of_byte();

#[expect(clippy::indexing_slicing, reason = "computed by the compiler, which would fail")]
const fn crc_of_byte() -> [u32; 256] {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
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

    #[test]
    fn a_good_line_is_found_behind_one_that_lost_its_feed() {
        let first = encode(&["deadbeef [", "12345678 ["]).unwrap();
        let second = encode(&["reboot"]).unwrap();
        let mut both = [&*first, &*second].concat();
        both[first.len() - 1] ^= 1;
        assert_eq!(decode(&both), None);
        assert_eq!(good_end(&both), Some(first.len()));
        assert_eq!(good_end(&first), None, "a good line has no other in it");
        assert_eq!(good_end(&both[..both.len() - 1]), None, "the second is torn itself");
    }
}
