//! Load: an efficient server, and clients that count.
//!
//! The server echoes on its port and swallows bulk on the next: there it
//! answers with the count of bytes once the client has sent its FIN. On the one
//! behind that it answers requests of HTTP/1.1, then of HTTP/2.

mod calls;
mod client;
mod http;
mod http2;
mod server;

pub(crate) use calls::Caller;
pub(crate) use client::{Getter, Kind, run};
pub(crate) use server::serve;

/// Bytes of a small request and of its answer.
const SMALL: usize = 64;
