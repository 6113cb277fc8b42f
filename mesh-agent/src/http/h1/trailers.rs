//! The lines behind the last chunk.

use super::lines::{MAX_HEAD, MAX_LINES};
use super::{Bad, Side};
use crate::http::names;

/// No name that matters is longer.
const LONGEST: usize = 64;

/// Where in the trailer section the next byte is.
#[derive(Debug)]
pub(super) struct Trailers {
    side: Side,
    state: State,
    /// Begin of the current line's name.
    name: [u8; LONGEST],
    name_len: usize,
    lines: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    LineBegin,
    Name,
    Value,
    /// LF of a line.
    Feed,
    /// LF of the empty line.
    LastFeed,
}

impl Trailers {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            state: State::LineBegin,
            name: [0; LONGEST],
            name_len: 0,
            lines: 0,
            bytes: 0,
        }
    }

    /// How many of the bytes belong to it, and whether it ends behind them.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<(usize, bool), Bad> {
        for (at, byte) in bytes.iter().enumerate() {
            self.bytes += 1;
            if self.bytes > MAX_HEAD {
                return Err(Bad::TrailersTooLong);
            }
            if self.byte(*byte)? {
                return Ok((at + 1, true));
            }
        }
        Ok((bytes.len(), false))
    }

    /// Is it the last one?
    fn byte(&mut self, byte: u8) -> Result<bool, Bad> {
        self.state = match (self.state, byte) {
            (State::LineBegin, b'\r') => State::LastFeed,
            (State::LastFeed, b'\n') => return Ok(true),
            (State::LineBegin, byte) if names::is_token(byte) => {
                self.lines += 1;
                if self.lines > MAX_LINES {
                    return Err(Bad::TrailersTooLong);
                }
                self.name_len = 0;
                self.keep(byte);
                State::Name
            }
            (State::Name, byte) if names::is_token(byte) => {
                self.keep(byte);
                State::Name
            }
            (State::Name, b':') => {
                self.check_name()?;
                State::Value
            }
            (State::Value, b'\r') => State::Feed,
            (State::Value, b'\t' | b' '..=b'~' | 0x80..) => State::Value,
            (State::Feed, b'\n') => State::LineBegin,
            _ => return Err(Bad::Trailer),
        };
        Ok(false)
    }

    fn keep(&mut self, byte: u8) {
        if let Some(place) = self.name.get_mut(self.name_len) {
            *place = byte;
        }
        self.name_len += 1;
    }

    /// A trailer cannot say what a head must: servers that merge both would believe it.
    fn check_name(&self) -> Result<(), Bad> {
        let shown = &self.name[..self.name_len.min(LONGEST)];
        let name = std::str::from_utf8(shown).map_err(|_| Bad::Trailer)?;
        let is_whole = self.name_len <= LONGEST;
        let is_identity = self.side == Side::Request && names::is_identity(name);
        if is_identity || (is_whole && names::is_framing(name)) {
            return Err(Bad::TrailerName);
        }
        Ok(())
    }
}
