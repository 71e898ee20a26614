//! Lets anyone check the decoder: one case a line in, one line of what the decoder made of it out.
//!
//! ```text
//! $ echo '{"name":"hi","chunks":["ZGF0YTogaGkKCg=="]}' | cargo run -q -p bellwire-sse --example vectors
//! {"name":"hi","expected":[{"type":"message","data":"hi","id":""}],"expected_last_event_id":"",…}
//! ```
//!
//! A case is `{"name", "chunks": [base64, …], "initial_last_event_id"?}`; other members are ignored,
//! so the answers can be compared with a file of cases member by member.

use base64::{Engine, prelude::BASE64_STANDARD};
use bellwire_sse::{Decoder, Item};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    io::{self, BufRead, BufWriter, Write},
};

fn main() -> Result<(), Box<dyn Error>> {
    answer_all(io::stdin().lock(), BufWriter::new(io::stdout().lock()))
}

/// Answers each line that is not blank before the next is read: the other side may hold the input
/// open.
pub(crate) fn answer_all(
    cases: impl BufRead,
    mut answers: impl Write,
) -> Result<(), Box<dyn Error>> {
    for (index, line) in cases.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = answer(&line).map_err(|error| format!("line {}: {error}", index + 1))?;
        serde_json::to_writer(&mut answers, &answer)?;
        answers.write_all(b"\n")?;
        answers.flush()?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Case {
    name: String,
    chunks: Vec<String>,
    #[serde(default)]
    initial_last_event_id: Option<String>,
}

/// What the decoder computed, under the names that a file of cases has for it.
#[derive(Serialize)]
struct Answer {
    name: String,
    expected: Vec<Event>,
    expected_last_event_id: String,
    expected_retry_ms: Option<u64>,
    expected_comments: Vec<String>,
    events_after_chunk: Vec<usize>,
}

#[derive(Serialize)]
struct Event {
    #[serde(rename = "type")]
    name: String,
    data: String,
    id: String,
}

fn answer(line: &str) -> Result<Answer, Box<dyn Error>> {
    let case: Case = serde_json::from_str(line)?;
    let mut decoder = Decoder::builder()
        .comments(true)
        .last_event_id(case.initial_last_event_id.unwrap_or_default())
        .build();
    let mut expected = Vec::new();
    let mut expected_comments = Vec::new();
    let mut events_after_chunk = Vec::new();
    for chunk in &case.chunks {
        let chunk = BASE64_STANDARD.decode(chunk)?;
        let mut chunk = chunk.as_slice();
        while let Some(item) = decoder.decode(&mut chunk)? {
            match item {
                Item::Event(event) => expected.push(Event {
                    name: event.name().to_owned(),
                    data: event.data().to_owned(),
                    id: event.id().to_owned(),
                }),
                Item::Comment(text) => expected_comments.push(text.to_owned()),
            }
        }
        events_after_chunk.push(expected.len());
    }
    Ok(Answer {
        name: case.name,
        expected,
        expected_last_event_id: decoder.last_event_id().to_owned(),
        expected_retry_ms: decoder.retry_ms(),
        expected_comments,
        events_after_chunk,
    })
}
