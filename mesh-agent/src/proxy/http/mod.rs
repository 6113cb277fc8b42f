//! Exchanges of HTTP/1 between a client's side and a server's, each a socket or a stream of a
//! connection between agents.
//!
//! A head is looked at where it comes, decided on by the caller, and goes on with
//! its body as the bytes that came; the caller says where to, and what becomes of
//! both connections. Never decides who may ask what, or where a request goes.
//! Invariants: an idle connection has no memory here; what is cut is never made to
//! look whole; behind one request the bytes of the next stay where they are.

mod byte_stream;
mod client;
mod drive;
mod hold;
mod inbox;
mod kept;
mod plan;
mod pump;
mod replayable;
mod tee;
mod transfer;
mod tries;

pub(super) use byte_stream::{ByteStream, Side, has_settings, is_quiet};
pub(super) use client::{Next, told};
pub(super) use drive::{Driven, HEAD_TIMEOUT, Totals, Watch, drive, silence};
pub(super) use hold::{Held, Hold, says_overflow};
pub(super) use inbox::Inbox;
pub(super) use plan::Planned;
pub(super) use replayable::{Replayable, is_safe};
pub(super) use tee::{Rest, SendCopies, Tee, Unkept};
pub(super) use transfer::{Carried, Fail, KeptOpen, Transfer};
pub(super) use tries::{RetryTo, Tries, Waited};
