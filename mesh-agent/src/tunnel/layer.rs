//! What a connection's frames are wrapped in: TLS records of its own, or, on a channel of a
//! shared connection, which is sealed as a whole, records that are not sealed.

use super::frame::{self, GENERATIONS, Kind};
use crate::tls::{HEAD, MAX_PLAINTEXT, Opened, RecordError, Records};

/// Both directions of a connection.
pub(super) enum Layer {
    /// On the heap: a channel has none of it.
    Tls(Box<Records>),
    /// The same layout, `TLSPlaintext` (RFC 8446, section 5.1) in place of `TLSCiphertext`.
    Bare,
}

/// Of a record of data: its type, and the version that each has.
const HEADER: [u8; 3] = [23, 3, 3];

impl Layer {
    /// As [`Records::seal`].
    pub(super) fn seal(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, RecordError> {
        match self {
            Self::Tls(records) => records.seal(buffer, len),
            Self::Bare => {
                buffer[..HEADER.len()].copy_from_slice(&HEADER);
                // At most a record's plaintext, so it fits.
                buffer[HEADER.len()..HEAD].copy_from_slice(&(len as u16).to_be_bytes());
                Ok(HEAD + len)
            }
        }
    }

    /// As [`Records::open`].
    pub(super) fn open(&mut self, buffer: &mut [u8]) -> Result<Opened, RecordError> {
        match self {
            Self::Tls(records) => records.open(buffer),
            Self::Bare => open_bare(buffer),
        }
    }

    /// As [`Records::take_outgoing`].
    pub(super) fn take_outgoing(&mut self) -> Result<Option<Vec<u8>>, RecordError> {
        match self {
            Self::Tls(records) => records.take_outgoing(),
            Self::Bare => Ok(None),
        }
    }

    /// The record that ends this direction, where there is one.
    pub(super) fn close_notify(&mut self) -> Option<impl AsRef<[u8]> + use<>> {
        match self {
            Self::Tls(records) => records.close_notify().ok(),
            Self::Bare => None,
        }
    }
}

/// What tells a client that nothing of its stream was taken, the first one on a channel.
pub(super) fn goaway_before_the_first() -> Vec<u8> {
    const LAST: u8 = GENERATIONS - 1;
    let payload = [LAST, 0];
    let mut record = [0; HEAD + frame::HEADER + 2];
    frame::put_header(&mut record[HEAD..], Kind::Goaway, LAST, payload.len());
    record[HEAD + frame::HEADER..].copy_from_slice(&payload);
    let len = frame::HEADER + payload.len();
    // There is nothing that could fail.
    let _sealed = Layer::Bare.seal(&mut record, len);
    record.to_vec()
}

fn open_bare(buffer: &[u8]) -> Result<Opened, RecordError> {
    let Some([kind, major, minor, high, low]) = buffer.first_chunk::<HEAD>() else {
        return Ok(Opened::NeedMore);
    };
    if [*kind, *major, *minor] != HEADER {
        return Err(RecordError::Unexpected);
    }
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    match len {
        0 => Err(RecordError::Unexpected),
        len if len > MAX_PLAINTEXT => Err(RecordError::TooLong),
        len if buffer.len() < HEAD + len => Ok(Opened::NeedMore),
        len => Ok(Opened::Data {
            plaintext: HEAD..HEAD + len,
            consumed: HEAD + len,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_record_says_its_length_and_nothing_else_is_one() {
        let mut buffer = [0; HEAD + 3];
        buffer[HEAD..].copy_from_slice(b"abc");
        assert_eq!(Layer::Bare.seal(&mut buffer, 3), Ok(HEAD + 3));
        assert_eq!(buffer, *b"\x17\x03\x03\x00\x03abc");
        let open = |bytes: &[u8]| Layer::Bare.open(&mut bytes.to_vec());
        let whole = Opened::Data {
            plaintext: HEAD..HEAD + 3,
            consumed: HEAD + 3,
        };
        assert_eq!(open(&[&buffer[..], b"more"].concat()), Ok(whole));
        for part in 0..buffer.len() {
            assert_eq!(open(&buffer[..part]), Ok(Opened::NeedMore), "{part}");
        }
        assert_eq!(open(b"\x15\x03\x03\x00\x01a"), Err(RecordError::Unexpected));
        assert_eq!(open(b"\x17\x03\x03\x00\x00"), Err(RecordError::Unexpected));
        assert_eq!(open(b"\x17\x03\x03\x40\x01"), Err(RecordError::TooLong));
    }
}
