//! TLS 1.3 records in place (RFC 8446, sections 5 and 4.6), with the keys of a
//! finished handshake.
//!
//! An error is final: after one, the direction gives nothing but errors. A
//! sealed record must be sent once and in order.

#[cfg(any(test, feature = "fuzzing"))]
mod probe;

use std::ops::Range;

use rustls::ExtractedSecrets;

use super::keys::{DATA, HEAD, Keys, MAX_PLAINTEXT, RecordError, TAIL};
use super::schedule::{CapturedSecrets, Schedule, Side};

/// Most bytes of one record from a peer, its header included.
pub(crate) const MAX_CIPHERTEXT: usize = HEAD + MAX_BODY;
/// Length of a sealed alert.
pub(crate) const ALERT_RECORD: usize = HEAD + 2 + TAIL;

/// What a header may announce (RFC 8446, section 5.2).
const MAX_BODY: usize = MAX_PLAINTEXT + 256;
/// A record that carries no data (empty, a key update, a ticket) costs as much
/// credit as this many that do give back: a key update is worth many records.
const IDLE_COST: u32 = 1024;
/// Most credit, and what a connection begins with.
const IDLE_CREDIT: u32 = 32 * IDLE_COST;
/// Own keys are changed after this many records; AES-GCM is good for 2^24.5.
const UPDATE_AFTER: u64 = 1 << 23;

/// Content types.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Handshake types.
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Alert levels and descriptions.
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// What the bytes at the front of a buffer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Not yet a whole record.
    NeedMore,
    /// Application data, decrypted in place at `plaintext`.
    Data {
        plaintext: Range<usize>,
        consumed: usize,
    },
    /// A record that is none of the application's concern.
    Handled { consumed: usize },
    /// The peer will send nothing more (`close_notify`).
    Closed,
}

/// Both directions of one connection after its handshake.
pub(crate) struct Records {
    sending: Keys,
    receiving: Keys,
    /// Where the keys after an update come from. On the heap: seldom needed, and a
    /// connection moves about.
    schedule: Box<Schedule>,
    /// Set by `close_notify` or a fatal alert of ours.
    sent_close: bool,
    /// The peer asked us to change our keys.
    update_wanted: bool,
    idle_credit: u32,
    /// How the receiving direction ended.
    ended: Option<Result<Opened, RecordError>>,
}

impl Records {
    /// `captured`: what [`super::schedule::capture`] collected in the handshake
    /// that gave `secrets`.
    pub(super) fn new(
        side: Side,
        secrets: &ExtractedSecrets,
        captured: CapturedSecrets,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            sending: Keys::of(&secrets.tx)?,
            receiving: Keys::of(&secrets.rx)?,
            schedule: Box::new(Schedule::new(side, captured, secrets)?),
            sent_close: false,
            update_wanted: false,
            idle_credit: IDLE_CREDIT,
            ended: None,
        })
    }

    /// Seals `buf[HEAD..HEAD + length]` into a record at the front of `buf`,
    /// which needs [`TAIL`] bytes of room behind; the record's length.
    pub(crate) fn seal(&mut self, buf: &mut [u8], length: usize) -> Result<usize, RecordError> {
        if self.sent_close {
            return Err(RecordError::Closed);
        }
        self.sending.seal(DATA, buf, length)
    }

    /// A key update that must be sent now, if one is due: to be asked for
    /// before each batch of seals (costs two comparisons when none is).
    pub(crate) fn take_outgoing(&mut self) -> Result<Option<Vec<u8>>, RecordError> {
        let is_due = self.update_wanted || self.sending.sequence() >= UPDATE_AFTER;
        if !is_due || self.sent_close {
            return Ok(None);
        }
        self.update_keys(false).map(Some)
    }

    /// Changes our keys; the bytes that tell the peer, to be sent before
    /// anything that is sealed from now on.
    fn update_keys(&mut self, ask_peer: bool) -> Result<Vec<u8>, RecordError> {
        const MESSAGE: usize = 5;
        let mut record = vec![0; HEAD + MESSAGE + TAIL];
        record[HEAD..HEAD + MESSAGE].copy_from_slice(&[KEY_UPDATE, 0, 0, 1, u8::from(ask_peer)]);
        self.sending.seal(HANDSHAKE, &mut record, MESSAGE)?;
        self.sending = self.schedule.next_sending()?;
        self.update_wanted = false;
        Ok(record)
    }

    /// The record that ends our direction.
    pub(crate) fn close_notify(&mut self) -> Result<[u8; ALERT_RECORD], RecordError> {
        self.alert(WARNING, CLOSE_NOTIFY)
    }

    /// The record that tells the peer why we give up (RFC 8446, section 6.2).
    pub(crate) fn fatal_alert(
        &mut self,
        description: u8,
    ) -> Result<[u8; ALERT_RECORD], RecordError> {
        self.alert(FATAL, description)
    }

    fn alert(&mut self, level: u8, description: u8) -> Result<[u8; ALERT_RECORD], RecordError> {
        if self.sent_close {
            return Err(RecordError::Closed);
        }
        self.sent_close = true;
        let mut record = [0; ALERT_RECORD];
        record[HEAD..HEAD + 2].copy_from_slice(&[level, description]);
        self.sending.seal(ALERT, &mut record, 2)?;
        Ok(record)
    }

    /// Opens the record at the front of `buf` in place.
    pub(crate) fn open(&mut self, buf: &mut [u8]) -> Result<Opened, RecordError> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let opened = self.open_next(buf);
        if matches!(opened, Err(_) | Ok(Opened::Closed)) {
            self.ended = Some(opened.clone());
        }
        opened
    }

    fn open_next(&mut self, buf: &mut [u8]) -> Result<Opened, RecordError> {
        let Some(length) = record_length(buf)? else {
            return Ok(Opened::NeedMore);
        };
        let Some(record) = buf.get_mut(..length) else {
            return Ok(Opened::NeedMore);
        };
        let (kind, content) = self.receiving.open(record)?;
        let plaintext = HEAD..HEAD + content;
        match kind {
            DATA if content > 0 => {
                self.idle_credit = IDLE_CREDIT.min(self.idle_credit + 1);
                return Ok(Opened::Data {
                    plaintext,
                    consumed: length,
                });
            }
            DATA => {}
            HANDSHAKE => self.handshake(&record[plaintext])?,
            ALERT if is_close_notify(&record[plaintext.clone()])? => return Ok(Opened::Closed),
            ALERT => {}
            _ => return Err(RecordError::Unexpected),
        }
        let left = self.idle_credit.checked_sub(IDLE_COST);
        self.idle_credit = left.ok_or(RecordError::IdleFlood)?;
        Ok(Opened::Handled { consumed: length })
    }

    /// Messages after the handshake: key updates, and tickets, which we do not use.
    fn handshake(&mut self, mut messages: &[u8]) -> Result<(), RecordError> {
        if messages.is_empty() {
            return Err(RecordError::Unexpected);
        }
        while let Some(Message { kind, body, rest }) = split_message(messages)? {
            match (kind, body) {
                // New keys count from the next record: nothing may follow in this one.
                (KEY_UPDATE, [request @ (0 | 1)]) if rest.is_empty() => {
                    self.receiving = self.schedule.next_receiving()?;
                    self.update_wanted |= *request == 1;
                }
                // Only a client is sent tickets.
                (NEW_SESSION_TICKET, _) if self.schedule.side() == Side::Client => {}
                _ => return Err(RecordError::Unexpected),
            }
            messages = rest;
        }
        Ok(())
    }
}

/// The whole length of the record whose header begins `buf`; `None` while the
/// header is not whole. After the handshake every record is encrypted, and so
/// has the outer type of data.
fn record_length(buf: &[u8]) -> Result<Option<usize>, RecordError> {
    if buf.first().is_some_and(|kind| *kind != DATA) {
        return Err(RecordError::Unexpected);
    }
    let Some([_, _, _, high, low]) = buf.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([*high, *low])) {
        body if body > MAX_BODY => Err(RecordError::TooLong),
        body if body < TAIL => Err(RecordError::Unexpected),
        body => Ok(Some(HEAD + body)),
    }
}

/// A handshake message and what follows it.
struct Message<'a> {
    kind: u8,
    body: &'a [u8],
    rest: &'a [u8],
}

/// The first message, if any is left. None may span records:
/// those that come after the handshake are short.
fn split_message(messages: &[u8]) -> Result<Option<Message<'_>>, RecordError> {
    let Some((&[kind, a, b, c], rest)) = messages.split_first_chunk::<4>() else {
        return if messages.is_empty() {
            Ok(None)
        } else {
            Err(RecordError::Unexpected)
        };
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let (body, rest) = rest
        .split_at_checked(length)
        .ok_or(RecordError::Unexpected)?;
    Ok(Some(Message { kind, body, rest }))
}

/// `false` for the one alert that may be passed over.
fn is_close_notify(alert: &[u8]) -> Result<bool, RecordError> {
    match alert {
        [_, CLOSE_NOTIFY] => Ok(true),
        [_, USER_CANCELED] => Ok(false),
        [_, description] => Err(RecordError::Alert(*description)),
        _ => Err(RecordError::Unexpected),
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records(..)")
    }
}
