//! Follows a body to its end. The bytes are forwarded as they are.

use super::framing::Framing;
use super::trailers::Trailers;
use super::{Bad, Side};

/// All extensions of one message together.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Digits of a size, zeros in front included.
const MAX_DIGITS: usize = 64;

/// Where in a body the next byte is.
#[derive(Debug)]
pub(crate) struct Body {
    side: Side,
    state: State,
    extensions: usize,
}

/// What of the bytes belongs to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) len: usize,
    /// The message ends behind them.
    pub(crate) ended: bool,
}

#[derive(Debug)]
enum State {
    Length(u64),
    UntilClose,
    Size {
        size: u64,
        digits: usize,
    },
    /// Blanks behind a size.
    SizeEnd {
        size: u64,
    },
    Extension {
        size: u64,
        quoted: Quoted,
    },
    /// LF of the line with a size.
    SizeFeed {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// CR behind the data.
    DataEnd,
    DataFeed,
    Trailers(Box<Trailers>),
    Ended,
}

/// In an extension's quoted string anything may stand but line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quoted {
    No,
    Yes,
    Escape,
}

impl Body {
    pub(crate) fn new(framing: Framing, side: Side) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilClose | Framing::Tunnel => State::UntilClose,
        };
        Self {
            side,
            state,
            extensions: 0,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Does the end of the connection end it well?
    pub(crate) fn ends_with_the_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Ended)
    }

    /// How many of these bytes belong to the message.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<Followed, Bad> {
        let mut at = 0;
        while at < bytes.len() && !self.has_ended() {
            at += self.step(&bytes[at..])?;
        }
        Ok(Followed {
            len: at,
            ended: self.has_ended(),
        })
    }

    /// One state's worth of bytes, of which there is at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        match &mut self.state {
            State::Length(left) => {
                let taken = skip(left, bytes);
                if *left == 0 {
                    self.state = State::Ended;
                }
                Ok(taken)
            }
            State::Data { left } => {
                let taken = skip(left, bytes);
                if *left == 0 {
                    self.state = State::DataEnd;
                }
                Ok(taken)
            }
            State::UntilClose => Ok(bytes.len()),
            State::Trailers(trailers) => {
                let (taken, ended) = trailers.follow(bytes)?;
                if ended {
                    self.state = State::Ended;
                }
                Ok(taken)
            }
            State::Ended => Ok(0),
            State::SizeEnd { .. } | State::Extension { .. }
                if self.extensions == MAX_EXTENSIONS =>
            {
                Err(Bad::ChunkExtension)
            }
            state => {
                let is_extra = matches!(state, State::SizeEnd { .. } | State::Extension { .. });
                self.extensions += usize::from(is_extra);
                self.state = self.next(bytes[0])?;
                Ok(1)
            }
        }
    }

    /// The state behind one byte of what stands between the data of chunks.
    fn next(&self, byte: u8) -> Result<State, Bad> {
        match (&self.state, byte) {
            (State::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                add_digit(*size, *digits, byte)
            }
            (State::Size { digits: 0, .. }, _) => Err(Bad::ChunkSize),
            (State::Size { size, .. } | State::SizeEnd { size }, b' ' | b'\t') => {
                Ok(State::SizeEnd { size: *size })
            }
            (State::Size { size, .. } | State::SizeEnd { size }, b';') => Ok(State::Extension {
                size: *size,
                quoted: Quoted::No,
            }),
            (State::Size { size, .. }, b'\r') => Ok(State::SizeFeed { size: *size }),
            // Servers of old fill the field of the size up with blanks.
            (State::SizeEnd { size }, b'\r') if self.side == Side::Response => {
                Ok(State::SizeFeed { size: *size })
            }
            (State::Extension { size, quoted }, byte) => in_extension(*size, *quoted, byte),
            (State::SizeFeed { size: 0 }, b'\n') => {
                Ok(State::Trailers(Box::new(Trailers::new(self.side))))
            }
            (State::SizeFeed { size }, b'\n') => Ok(State::Data { left: *size }),
            (State::DataEnd, b'\r') => Ok(State::DataFeed),
            (State::DataFeed, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::DataEnd | State::DataFeed, _) => Err(Bad::ChunkEnd),
            _ => Err(Bad::ChunkSize),
        }
    }
}

fn skip(left: &mut u64, bytes: &[u8]) -> usize {
    let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let taken = here.min(*left);
    *left -= taken;
    usize::try_from(taken).unwrap_or(bytes.len())
}

fn add_digit(size: u64, digits: usize, byte: u8) -> Result<State, Bad> {
    let digit = char::from(byte).to_digit(16).ok_or(Bad::ChunkSize)?;
    // As a length: below 2^63.
    let fits = size < 1 << 59 && digits < MAX_DIGITS;
    if !fits {
        return Err(Bad::ChunkSize);
    }
    Ok(State::Size {
        size: size << 4 | u64::from(digit),
        digits: digits + 1,
    })
}

fn in_extension(size: u64, quoted: Quoted, byte: u8) -> Result<State, Bad> {
    let quoted = match (quoted, byte) {
        (Quoted::No, b'\r') => return Ok(State::SizeFeed { size }),
        (_, b'\t' | b' '..=b'~' | 0x80..) => match (quoted, byte) {
            (Quoted::No, b'"') => Quoted::Yes,
            (Quoted::Yes, b'"') => Quoted::No,
            (Quoted::Yes, b'\\') => Quoted::Escape,
            (Quoted::Escape, _) => Quoted::Yes,
            (quoted, _) => quoted,
        },
        _ => return Err(Bad::ChunkExtension),
    };
    Ok(State::Extension { size, quoted })
}
