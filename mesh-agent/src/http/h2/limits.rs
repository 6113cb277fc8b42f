//! Windows and limits.

use std::sync::Arc;

use http::HeaderMap;

use super::blocks::Most;
use super::window::{Unread, Window};
use crate::http::h1::{Bad, MAX_LINES};
use crate::io::Account;

/// Between whom the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Clients and applications.
    Edge,
    /// Two agents.
    Agents,
}

/// Most streams at once that a peer may open.
pub(crate) const STREAMS: u32 = 1000;
/// Streams that nobody reads and that stall no other, where there is memory for them.
const UNREAD: u32 = 250;
/// Most of a head, or of trailers, that clients and applications send; each line counts
/// 32 bytes more than it has, as in SETTINGS.
const HEAD: usize = 96 * 1024;
/// Most of them as they are sent. Bytes beyond ASCII take up to 28 bits in Huffman's code, which
/// is used whether or not it makes a text shorter: what came as [`HEAD`] may go as this.
const BLOCK: usize = 4 * HEAD;
/// What HTTP/2 is told that a list may have, and holds it to: see [`Limits::header_list`].
const LIST: u32 = 768 * 1024;
const _: () = assert!(LIST as usize > HEAD + BLOCK * 8 / 5);
/// Unread data of one stream; more only where all is read as fast as it comes.
const STREAM_WINDOW: u32 = 256 * 1024;
const AGENTS_STREAM_WINDOW: u32 = 128 * 1024;
/// Frames of data are not larger: the least that every peer takes.
pub(super) const FRAME: u32 = 16 * 1024;
/// In front of each.
pub(super) const FRAME_HEAD: usize = 9;
/// Streams on which a server may break HTTP/2 in a connection's life: some MB of resets.
const BROKEN: usize = 4096;
/// Written data that waits for the socket, of one stream.
const SEND_BUFFER: usize = 64 * 1024;

pub(super) struct Limits {
    pub(super) streams: u32,
    pub(super) stream_window: u32,
    /// What it may grow to: a few streams that nobody reads stall no other.
    pub(super) connection_window: u32,
    /// Heads and trailers. A larger head is answered, or ends the connection, inside
    /// h2, unseen by log and metrics, and of larger trailers h2 keeps the lines before one
    /// that it leaves out, and says nothing: wider than what is refused here, and by more
    /// than one line may be that [`Limits::block`] lets through (8 bits of 5).
    pub(super) header_list: u32,
    /// What one of them may have as it is sent; past it the connection ends. h2 keeps it
    /// decoded until somebody takes it, trailers as long as what comes before them waits:
    /// so that has a bound of its own, for all streams together.
    pub(super) block: Most,
    /// What unread small frames may cost, the bytes that each lacks of 256; past it
    /// the connection ends. One slow reader of small messages must not reach it.
    pub(super) small_frames: usize,
}

impl Hop {
    pub(super) const fn limits(self) -> Limits {
        match self {
            Self::Edge => Limits {
                streams: STREAMS,
                stream_window: STREAM_WINDOW,
                connection_window: UNREAD * STREAM_WINDOW,
                header_list: LIST,
                block: Most {
                    lines: 512,
                    bytes: BLOCK,
                    kept: 1024 * 1024,
                },
                small_frames: 16 * 1024 * 1024,
            },
            Self::Agents => Limits {
                streams: STREAMS,
                stream_window: AGENTS_STREAM_WINDOW,
                connection_window: UNREAD * AGENTS_STREAM_WINDOW,
                header_list: LIST,
                // Of a route's edits there may be some more than came.
                block: Most {
                    lines: 1024,
                    bytes: BLOCK,
                    // What a client sent may be longer here.
                    kept: 4 * 1024 * 1024,
                },
                small_frames: 64 * 1024 * 1024,
            },
        }
    }

    /// What is wrong with the size of a head, or of trailers, from this hop's other end;
    /// `more`: bytes that are not in its lines, for they are sent on in the same way. An agent has looked at what it sends.
    pub(super) fn check(self, lines: &HeaderMap, more: usize) -> Result<(), Bad> {
        if self == Self::Agents {
            return Ok(());
        }
        if lines.len() > MAX_LINES {
            return Err(Bad::TooManyLines);
        }
        let sizes = lines
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 32);
        match sizes.sum::<usize>() + more > HEAD {
            true => Err(Bad::TooLong),
            false => Ok(()),
        }
    }

    pub(super) const fn block(self) -> Most {
        self.limits().block
    }

    pub(super) fn window(self, unread: Arc<Unread>, account: Arc<Account>) -> Window {
        let limits = self.limits();
        let most = limits.connection_window as usize;
        let of_stream = limits.stream_window as usize;
        Window::new(unread, account, [most, of_stream])
    }

    pub(super) fn server(self) -> ::h2::server::Builder {
        let limits = self.limits();
        let mut builder = ::h2::server::Builder::new();
        builder
            .initial_window_size(limits.stream_window)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.header_list)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(limits.small_frames)
            // Whether the server of a request does is found out for each.
            .enable_connect_protocol();
        builder
    }

    pub(super) fn client(self) -> ::h2::client::Builder {
        let limits = self.limits();
        let mut builder = ::h2::client::Builder::new();
        builder
            .initial_window_size(limits.stream_window)
            .max_header_list_size(limits.header_list)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(limits.small_frames)
            // What breaks HTTP/2 on one stream is that exchange's end alone; but each is
            // held until its reset has gone, and a peer may send on streams that are long
            // over without reading any.
            .max_local_error_reset_streams(Some(BROKEN))
            .enable_push(false);
        if self == Self::Agents {
            // The other agent's, before it has said so.
            builder.initial_max_send_streams(STREAMS as usize);
        }
        builder
    }
}
