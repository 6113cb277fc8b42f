//! Frames and the OPEN frame's fields, byte by byte as `docs/protocol.md` says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::ProtocolError;

/// Version of the protocol that this agent speaks (OPEN, field 1).
pub(super) const VERSION: u8 = 1;
/// Type, generation, length.
pub(super) const HEADER: usize = 4;
/// Generations run from 0 to 127; the upper bit is reserved.
pub(super) const GENERATIONS: u8 = 128;
/// An OPEN's fields never need more; more is an error.
pub(super) const MAX_OPEN: usize = 512;
/// A RESET's reason, and one field.
pub(super) const MAX_RESET: usize = 1 + 2 + 255;
/// A connection that passed this many agents goes round in a loop.
pub(super) const MAX_HOPS: u8 = 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Open = 1,
    Accept = 2,
    Data = 3,
    Fin = 4,
    Reset = 5,
    Goaway = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        Ok(match byte {
            1 => Self::Open,
            2 => Self::Accept,
            3 => Self::Data,
            4 => Self::Fin,
            5 => Self::Reset,
            6 => Self::Goaway,
            _ => return Err(ProtocolError::UnknownFrame),
        })
    }
}

/// Why a stream was reset (RESET, the first byte). Unknown ones read as `Aborted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ResetReason {
    /// The application's connection was reset.
    Aborted = 0,
    /// A policy of the destination says no.
    Denied = 1,
    /// The application did not accept the connection.
    ConnectFailed = 2,
    /// The destination has no room for more.
    OverLimit = 3,
    /// The answer to a RESET: this direction has ended, too.
    Answer = 4,
    /// Cut by the agent: policy change, revocation, pod removed, drain.
    Cut = 5,
}

impl ResetReason {
    /// What the other end's application did; all else is its agent's own word.
    pub(crate) fn is_of_application(self) -> bool {
        match self {
            Self::Aborted | Self::Answer => true,
            Self::Denied | Self::ConnectFailed | Self::OverLimit | Self::Cut => false,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Denied,
            2 => Self::ConnectFailed,
            3 => Self::OverLimit,
            4 => Self::Answer,
            5 => Self::Cut,
            _ => Self::Aborted,
        }
    }
}

/// One frame's header and where its payload stands in the record's plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) generation: u8,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// Writes a header into the first [`HEADER`] bytes of `out`.
pub(super) fn put_header(out: &mut [u8], kind: Kind, generation: u8, len: usize) {
    out[0] = kind as u8;
    out[1] = generation;
    // A record's plaintext has at most 16,384 bytes, so `len` fits.
    out[2..HEADER].copy_from_slice(&(len as u16).to_be_bytes());
}

/// The frame at `at` of a record's plaintext; frames never span records.
pub(super) fn parse(plaintext: &[u8], at: usize) -> Result<Frame, ProtocolError> {
    let header = plaintext
        .get(at..at + HEADER)
        .ok_or(ProtocolError::BadFrame)?;
    let kind = Kind::from_byte(header[0])?;
    if header[1] >= GENERATIONS {
        return Err(ProtocolError::BadFrame);
    }
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let start = at + HEADER;
    let fits = start + len <= plaintext.len();
    let right = match kind {
        Kind::Open => (1..=MAX_OPEN).contains(&len),
        Kind::Accept | Kind::Fin => len == 0,
        Kind::Data => len > 0,
        Kind::Reset => (1..=MAX_RESET).contains(&len),
        Kind::Goaway => len == 2,
    };
    if !fits || !right {
        return Err(ProtocolError::BadFrame);
    }
    Ok(Frame {
        kind,
        generation: header[1],
        start,
        len,
    })
}

pub(super) fn reset_reason(payload: &[u8]) -> ResetReason {
    ResetReason::from_byte(payload.first().copied().unwrap_or(0))
}

/// What a stream's first frame tells the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// Where the application wanted to connect (a Service's address, or the pod's).
    pub(crate) original: SocketAddr,
    /// The application's own address and port.
    pub(crate) source: SocketAddr,
    /// Agents passed so far.
    pub(crate) hops: u8,
    /// The client takes a RESET that names the rule of a denial.
    pub(crate) takes_rule: bool,
    /// W3C trace context: version, trace id, parent id, flags; 25 + 1 bytes.
    pub(crate) trace: Option<[u8; 26]>,
}

const TLV_VERSION: u8 = 1;
const TLV_ORIGINAL: u8 = 2;
const TLV_SOURCE: u8 = 3;
const TLV_TRACE: u8 = 5;
const TLV_HOPS: u8 = 6;
const TLV_TAKES: u8 = 7;

/// What a client takes, as bits of that field; others are of later versions.
const TAKES_RULE: u8 = 1;

/// Frames that stand before the first data of a stream, ready to copy.
pub(super) type Prefix = SmallVec<[u8; 64]>;

impl Open {
    pub(super) fn encode(&self, generation: u8) -> Prefix {
        let mut out = Prefix::new();
        out.resize(HEADER, 0);
        tlv(&mut out, TLV_VERSION, &[VERSION]);
        address(&mut out, TLV_ORIGINAL, self.original);
        address(&mut out, TLV_SOURCE, self.source);
        if let Some(trace) = &self.trace {
            tlv(&mut out, TLV_TRACE, trace);
        }
        if self.takes_rule {
            tlv(&mut out, TLV_TAKES, &[TAKES_RULE]);
        }
        tlv(&mut out, TLV_HOPS, &[self.hops]);
        let len = out.len() - HEADER;
        put_header(&mut out, Kind::Open, generation, len);
        out
    }

    /// Unknown fields are skipped, so that later versions can add some; known
    /// ones are strict.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let (mut version, mut original, mut source) = (None, None, None);
        let (mut hops, mut trace, mut takes) = (None, None, None);
        let mut rest = payload;
        while let [kind, len, tail @ ..] = rest {
            let value = tail
                .get(..usize::from(*len))
                .ok_or(ProtocolError::BadOpen)?;
            rest = &tail[value.len()..];
            match *kind {
                TLV_VERSION => once(&mut version, one(value)?)?,
                TLV_ORIGINAL => once(&mut original, socket_address(value)?)?,
                TLV_SOURCE => once(&mut source, socket_address(value)?)?,
                TLV_HOPS => once(&mut hops, one(value)?)?,
                TLV_TAKES => once(&mut takes, one(value)?)?,
                TLV_TRACE => {
                    let bytes = value.try_into().map_err(|_| ProtocolError::BadOpen)?;
                    once(&mut trace, bytes)?;
                }
                _ => {}
            }
        }
        if !rest.is_empty() || version != Some(VERSION) {
            return Err(ProtocolError::BadOpen);
        }
        let hops = hops.ok_or(ProtocolError::BadOpen)?;
        if hops >= MAX_HOPS {
            return Err(ProtocolError::Loop);
        }
        Ok(Self {
            original: original.ok_or(ProtocolError::BadOpen)?,
            source: source.ok_or(ProtocolError::BadOpen)?,
            hops,
            takes_rule: takes.is_some_and(|bits| bits & TAKES_RULE != 0),
            trace,
        })
    }
}

fn tlv(out: &mut Prefix, kind: u8, value: &[u8]) {
    // Every value of ours is shorter than 256 bytes.
    out.extend_from_slice(&[kind, value.len() as u8]);
    out.extend_from_slice(value);
}

fn address(out: &mut Prefix, kind: u8, address: SocketAddr) {
    let mut bytes = SmallVec::<[u8; 18]>::new();
    match address.ip() {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
    tlv(out, kind, &bytes);
}

fn socket_address(value: &[u8]) -> Result<SocketAddr, ProtocolError> {
    let (ip, port) = value
        .split_last_chunk::<2>()
        .ok_or(ProtocolError::BadOpen)?;
    let ip: IpAddr = if let Ok(v4) = <[u8; 4]>::try_from(ip) {
        Ipv4Addr::from(v4).into()
    } else if let Ok(v6) = <[u8; 16]>::try_from(ip) {
        Ipv6Addr::from(v6).into()
    } else {
        return Err(ProtocolError::BadOpen);
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

fn one(value: &[u8]) -> Result<u8, ProtocolError> {
    match value {
        [byte] => Ok(*byte),
        _ => Err(ProtocolError::BadOpen),
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), ProtocolError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ProtocolError::BadOpen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open() -> Open {
        Open {
            original: "10.96.0.1:80".parse().expect("an address"),
            source: "[fd00::5]:40000".parse().expect("an address"),
            hops: 1,
            takes_rule: true,
            trace: Some([7; 26]),
        }
    }

    #[test]
    fn an_open_frame_is_read_as_it_was_written() {
        let bytes = open().encode(5);
        let frame = parse(&bytes, 0).expect("a frame");
        assert_eq!((frame.kind, frame.generation), (Kind::Open, 5));
        assert_eq!(frame.start + frame.len, bytes.len());
        assert_eq!(Open::decode(&bytes[frame.start..]), Ok(open()));
    }

    #[test]
    fn fields_that_a_later_version_adds_are_skipped() {
        let mut bytes = open().encode(0)[HEADER..].to_vec();
        bytes.extend_from_slice(&[200, 3, 1, 2, 3]);
        assert_eq!(Open::decode(&bytes), Ok(open()));
    }

    #[test]
    fn an_open_with_a_field_missing_twice_or_cut_is_refused() {
        let bytes = open().encode(0)[HEADER..].to_vec();
        for end in 0..bytes.len() {
            assert!(Open::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let twice = [&bytes[..], &[TLV_VERSION, 1, VERSION]].concat();
        assert_eq!(Open::decode(&twice), Err(ProtocolError::BadOpen));
        let other = [&[TLV_VERSION, 1, VERSION + 1], &bytes[3..]].concat();
        assert_eq!(Open::decode(&other), Err(ProtocolError::BadOpen));
    }

    #[test]
    fn a_connection_that_went_in_a_circle_is_refused() {
        let mut looping = open();
        looping.hops = MAX_HOPS;
        let bytes = looping.encode(0);
        assert_eq!(Open::decode(&bytes[HEADER..]), Err(ProtocolError::Loop));
    }

    #[test]
    fn frames_of_the_wrong_size_type_or_generation_are_refused() {
        for bytes in [
            &[][..],
            &[3, 0, 0],
            &[0, 0, 0, 0],
            &[7, 0, 0, 0],
            &[3, 0, 0, 0],                                // DATA without data
            &[3, 0, 0, 2, 1],                             // longer than the record
            &[2, 0, 0, 1, 1],                             // ACCEPT with a payload
            &[4, 0, 0, 1, 1],                             // FIN with a payload
            &[5, 0, 0, 0],                                // RESET without a reason
            &[&[5, 0, 1, 3][..], &[0; 259]].concat()[..], // RESET that is too long
            &[1, 0, 0, 0],                                // OPEN without fields
            &[3, 128, 0, 1, 1],
        ] {
            assert!(parse(bytes, 0).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), at in 0_usize..90) {
            let _frame = parse(&bytes, at);
            let _open = Open::decode(&bytes);
        }
    }
}
