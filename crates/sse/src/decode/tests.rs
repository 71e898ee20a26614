use super::*;

/// A stream without an end to its line, its block or its repetitions of a field, must not fill
/// the memory.
#[test]
fn what_is_stored_stays_within_the_limit() {
    const LIMIT_BYTES: usize = 1_000;
    for endless in ["x", "\u{20AC}", "data: y\n", "data\n", "event: z\n", "id: 1\n", ":c\n", ":"] {
        let chunk = endless.repeat(5_000);
        for start in ["data: ", "event: ", "id: ", "retry: ", ":", "other: ", ""] {
            let mut decoder = Decoder::builder().comments(true).limit_bytes(LIMIT_BYTES).build();
            let mut reported = 0;
            for chunk in [start, &chunk, &chunk, &chunk] {
                let mut rest = chunk.as_bytes();
                while !matches!(decoder.decode(&mut rest), Ok(None)) {
                    reported += 1;
                }
            }
            let block = &decoder.block;
            for buffer in [&block.data, &block.name, &block.id, &decoder.line] {
                let stored = buffer.capacity();
                assert!(
                    stored <= 6 * LIMIT_BYTES,
                    "{stored} for {start:?} {endless:?}, {reported} reported"
                );
            }
        }
    }
}

#[test]
fn a_large_buffer_is_given_back() {
    let mut decoder = Decoder::new();
    let data = "x".repeat(2 * RETAINED_CAPACITY_BYTES);
    for mut chunk in [b"data: ", data.as_bytes(), b"\n", b"\n", b":"] {
        while decoder.decode(&mut chunk).unwrap().is_some() {}
    }
    assert_eq!(decoder.block.data.capacity(), 0);
}
