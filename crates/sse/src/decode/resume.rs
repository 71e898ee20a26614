//! Lines that a chunk cuts: the rest of one that began in an earlier chunk, piece by piece.
//!
//! Lines that lie whole in a chunk are read in `decode.rs`; the outcome is the same.

use core::mem;

use super::{DecodeError, Decoder, Position, WINDOW_BYTES, take_first};
use crate::block::clear;
use crate::last_id::Id;
use crate::line::{Field, Value};

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// The progress of a line that began in an earlier chunk.
pub(super) enum Resumed {
    /// It has ended or is ignored; the next byte begins a line, or continues an ignored one.
    Line,
    /// It has ended and was a comment, whose text is in `line`.
    Comment,
    /// The chunk is used up.
    NeedMore,
}

impl Decoder {
    /// Continues a line that began in an earlier chunk.
    pub(super) fn resume(&mut self, chunk: &mut &[u8]) -> Result<Resumed, DecodeError> {
        if let Position::Bom(seen) = self.position {
            return Ok(self.resume_bom(seen, chunk));
        }
        let line_end = self.take_line(chunk, WINDOW_BYTES);
        let ended = line_end.is_some();
        let piece = line_end.unwrap_or_else(|| take_first(chunk, WINDOW_BYTES));
        let outcome = self.take_piece(piece);
        let position = match (&outcome, ended) {
            (_, true) => mem::replace(&mut self.position, Position::LineStart),
            (Err(_), false) => mem::replace(&mut self.position, Position::Ignored),
            (Ok(()), false) if chunk.is_empty() => return Ok(Resumed::NeedMore),
            (Ok(()), false) => return Ok(Resumed::Line),
        };
        outcome?;
        match position {
            Position::Name(prefix) => match prefix.field() {
                Some(field) => {
                    self.start_value(field)?;
                    Ok(self.finish_value(Value::new(field)))
                }
                None => Ok(Resumed::Line),
            },
            Position::Value(value) => Ok(self.finish_value(value)),
            _ => Ok(Resumed::Line),
        }
    }

    fn resume_bom(&mut self, mut seen: usize, chunk: &mut &[u8]) -> Resumed {
        while let Some(&expected) = BOM.get(seen) {
            match chunk.first() {
                None => {
                    self.position = Position::Bom(seen);
                    return Resumed::NeedMore;
                }
                Some(&byte) if byte == expected => {
                    take_first(chunk, 1);
                    seen += 1;
                }
                // A partial mark is the start of an unknown field name.
                Some(_) if seen > 0 => {
                    self.position = Position::Ignored;
                    return Resumed::Line;
                }
                Some(_) => break,
            }
        }
        self.position = Position::LineStart;
        Resumed::Line
    }

    /// Takes in the next bytes of a line, without its end.
    pub(super) fn take_piece(&mut self, mut piece: &[u8]) -> Result<(), DecodeError> {
        if self.block.skipped {
            self.position = Position::Ignored;
        }
        if let Position::Name(mut prefix) = self.position {
            self.position = loop {
                let Some((&byte, rest)) = piece.split_first() else {
                    break Position::Name(prefix);
                };
                piece = rest;
                if byte == b':' {
                    break match prefix.field() {
                        Some(Field::Comment) if !self.comments => Position::Ignored,
                        Some(field) => Position::Value(Value::new(field)),
                        None => Position::Ignored,
                    };
                }
                if !prefix.push(byte) {
                    break Position::Ignored;
                }
            };
            if let Position::Value(value) = self.position {
                self.start_value(value.field)?;
            }
        }
        let Position::Value(mut value) = self.position else {
            return Ok(());
        };
        if value.at_start && !piece.is_empty() {
            value.at_start = false;
            if let (true, [b' ', rest @ ..]) = (value.field != Field::Comment, piece) {
                piece = rest;
            }
        }
        match value.field {
            Field::Retry => value.digits = value.digits.and(piece),
            Field::Data => {
                self.count(piece.len())?;
                value.pieces.push(&mut self.block.data, piece);
            }
            Field::Event | Field::Id => {
                self.count(piece.len())?;
                value.pieces.push(&mut self.line, piece);
            }
            Field::Comment => {
                value.len_bytes += piece.len();
                if value.len_bytes > self.limit_bytes {
                    return Err(DecodeError::TooLarge { limit_bytes: self.limit_bytes });
                }
                value.pieces.push(&mut self.line, piece);
            }
        }
        self.position = Position::Value(value);
        Ok(())
    }

    fn start_value(&mut self, field: Field) -> Result<(), DecodeError> {
        match field {
            Field::Data => {
                self.count(1)?;
                self.block.start_data_line();
            }
            Field::Event | Field::Id => {
                self.count(1)?;
                clear(&mut self.line);
            }
            Field::Comment => clear(&mut self.line),
            Field::Retry => {}
        }
        Ok(())
    }

    fn finish_value(&mut self, mut value: Value) -> Resumed {
        match value.field {
            Field::Data => value.pieces.finish(&mut self.block.data),
            Field::Event => {
                value.pieces.finish(&mut self.line);
                mem::swap(&mut self.block.name, &mut self.line);
            }
            Field::Id => {
                value.pieces.finish(&mut self.line);
                if Id::check(self.line.as_bytes()).is_some() {
                    mem::swap(&mut self.block.id, &mut self.line);
                    self.block.has_id = true;
                }
            }
            Field::Retry => self.set_retry(value.digits),
            Field::Comment => {
                value.pieces.finish(&mut self.line);
                return Resumed::Comment;
            }
        }
        Resumed::Line
    }
}
