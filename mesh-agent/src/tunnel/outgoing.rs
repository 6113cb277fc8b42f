//! The worker's buffer for what goes out: records laid out one behind the
//! other, filled by one read, sealed in place, sent by one write.

use std::cell::RefCell;
use std::future::Future as _;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::frame::{self, HEADER, Kind};
use super::layer::Layer;
use crate::tls::{HEAD, MAX_PLAINTEXT, RecordError, TAIL};

/// Records of one batch: 256 KiB measured best.
const RECORDS: usize = 16;
/// A full record on the wire.
const STRIDE: usize = HEAD + MAX_PLAINTEXT + TAIL;

/// A record of FIN alone.
const FIN_RECORD: usize = HEAD + HEADER + TAIL;

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::new(Batch::new());
}

pub(super) fn with_batch<T>(f: impl FnOnce(&mut Batch) -> T) -> T {
    BATCH.with_borrow_mut(|batch| f(batch))
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// No data; the prefix goes alone.
    Nothing,
    Some,
    /// The application's FIN, perhaps behind data.
    End,
}

pub(super) struct Batch {
    bytes: Box<[u8]>,
    /// Length of the frames before the first data.
    prefix: usize,
    data: usize,
}

impl Batch {
    fn new() -> Self {
        Self {
            bytes: vec![0; RECORDS * STRIDE + FIN_RECORD].into_boxed_slice(),
            prefix: 0,
            data: 0,
        }
    }

    pub(super) fn begin(&mut self, prefix: &[u8]) {
        self.bytes[HEAD..HEAD + prefix.len()].copy_from_slice(prefix);
        self.prefix = prefix.len();
        self.data = 0;
    }

    pub(super) fn data_len(&self) -> usize {
        self.data
    }

    /// The last read filled more than a record.
    pub(super) fn is_wide(&self) -> bool {
        self.data >= self.room(0)
    }

    /// Where the data of record `i` begins.
    fn offset(&self, i: usize) -> usize {
        let prefix = if i == 0 { self.prefix } else { 0 };
        i * STRIDE + HEAD + prefix + HEADER
    }

    /// Data that record `i` has room for.
    fn room(&self, i: usize) -> usize {
        i * STRIDE + HEAD + MAX_PLAINTEXT - self.offset(i)
    }

    /// At most `limit` bytes, into one record or all of them. A short read
    /// clears readiness; where the peer's end is known to be behind it, it is
    /// read too, so that FIN travels with the data.
    pub(super) fn read(
        &mut self,
        from: &TcpStream,
        wide: bool,
        limit: usize,
    ) -> io::Result<Filled> {
        let more = limit.saturating_sub(self.room(0)) / self.room(1);
        let records = if wide { RECORDS.min(1 + more) } else { 1 };
        let room: usize = (0..records).map(|i| self.room(i)).sum();
        let room = room.min(limit);
        let mut short = None;
        let full = from.try_io(Interest::READABLE, || {
            let n = self.receive(from, records, room)?;
            if n > 0 && n < room {
                short = Some(n);
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        self.data = match short {
            Some(n) => n,
            None => full?,
        };
        let ended = self.data == 0 || (short.is_some() && ended_behind(from)?);
        Ok(if ended { Filled::End } else { Filled::Some })
    }

    fn receive(&mut self, from: &TcpStream, records: usize, room: usize) -> io::Result<usize> {
        let socket = SockRef::from(from);
        if records == 1 {
            let at = self.offset(0);
            return io::Read::read(&mut &*socket, &mut self.bytes[at..at + room]);
        }
        let prefix = self.prefix;
        let mut parts: SmallVec<[IoSliceMut<'_>; RECORDS]> = self
            .bytes
            .chunks_exact_mut(STRIDE)
            .take(records)
            .enumerate()
            .map(|(i, record)| {
                let before = if i == 0 { prefix } else { 0 };
                let data = HEAD + before + HEADER;
                IoSliceMut::new(&mut record[data..HEAD + MAX_PLAINTEXT])
            })
            .collect();
        io::Read::read_vectored(&mut &*socket, &mut parts)
    }

    /// Bytes of a former attempt; they fit one batch, for the credit is smaller.
    pub(super) fn copy_in(&mut self, bytes: &[u8]) {
        self.data = 0;
        for i in 0..RECORDS {
            let rest = &bytes[self.data..];
            let n = rest.len().min(self.room(i));
            let at = self.offset(i);
            self.bytes[at..at + n].copy_from_slice(&rest[..n]);
            self.data += n;
        }
    }

    /// Of `parts` as much as there is room for, and no more than `limit`; how much.
    pub(super) fn gather(&mut self, parts: &[IoSlice<'_>], limit: usize) -> usize {
        self.data = 0;
        let (mut record, mut used) = (0, 0);
        for part in parts {
            let mut rest = &part[..part.len().min(limit - self.data)];
            while !rest.is_empty() && record < RECORDS {
                let n = rest.len().min(self.room(record) - used);
                let at = self.offset(record) + used;
                self.bytes[at..at + n].copy_from_slice(&rest[..n]);
                rest = &rest[n..];
                self.data += n;
                used += n;
                if used == self.room(record) {
                    (record, used) = (record + 1, 0);
                }
            }
        }
        self.data
    }

    pub(super) fn copy_out(&self, to: &mut Vec<u8>) {
        let mut left = self.data;
        for i in 0..RECORDS {
            let n = left.min(self.room(i));
            let at = self.offset(i);
            to.extend_from_slice(&self.bytes[at..at + n]);
            left -= n;
        }
    }

    /// Makes records of prefix, data and, when the stream `ends`, FIN.
    pub(super) fn seal(
        &mut self,
        layer: &mut Layer,
        generation: u8,
        ends: bool,
    ) -> Result<&[u8], RecordError> {
        let (mut left, mut sealed) = (self.data, 0);
        let mut fin = ends;
        for i in 0..RECORDS {
            let n = left.min(self.room(i));
            left -= n;
            let start = i * STRIDE + HEAD;
            let mut end = self.offset(i) - HEADER;
            if n > 0 {
                frame::put_header(&mut self.bytes[end..], Kind::Data, generation, n);
                end += HEADER + n;
            }
            if fin && left == 0 && end + HEADER <= start + MAX_PLAINTEXT {
                frame::put_header(&mut self.bytes[end..], Kind::Fin, generation, 0);
                end += HEADER;
                fin = false;
            }
            if end > start {
                // All records before this one are full; sealed, they leave no gap.
                let at = i * STRIDE;
                let n = layer.seal(&mut self.bytes[at..], end - start)?;
                if sealed < at {
                    self.bytes.copy_within(at..at + n, sealed);
                }
                sealed += n;
            }
            if left == 0 {
                break;
            }
        }
        if fin {
            // It did not fit behind the last data: right behind that record.
            frame::put_header(&mut self.bytes[sealed + HEAD..], Kind::Fin, generation, 0);
            sealed += layer.seal(&mut self.bytes[sealed..], HEADER)?;
        }
        Ok(&self.bytes[..sealed])
    }
}

/// Is FIN all that is left to read? Asks the socket only where its end is
/// flagged already; a reset is an error.
fn ended_behind(from: &TcpStream) -> io::Result<bool> {
    let ready = pin!(from.ready(Interest::READABLE));
    let mut context = Context::from_waker(Waker::noop());
    let closed =
        matches!(ready.poll(&mut context), Poll::Ready(Ok(ready)) if ready.is_read_closed());
    if !closed {
        return Ok(false);
    }
    // Nothing is between the data and the end: a byte here would be lost.
    let mut byte = [MaybeUninit::uninit()];
    match SockRef::from(from).peek(&mut byte) {
        Ok(n) => Ok(n == 0),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}
