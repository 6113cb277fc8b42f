//! Exchanges of HTTP/2: a client connection's requests, each decided on by itself and
//! carried over connections that are this client connection's alone.
//!
//! HTTP/2 stays HTTP/2: trailers, answers before the answer, codes of resets, and who
//! is slow on one stream holds no other. Never decides who may ask what, or where a
//! request goes: that is its [`Site`]'s. Invariants: nothing is read of one side that
//! the other has no room for; no part of a request goes to two servers unless the first
//! one said that it took nothing, or the request may be done twice and that is asked for;
//! every task of a connection ends with it.

mod broken;
mod client_connection;
mod copy;
mod deadline;
mod exchange;
mod line;
mod retry;
mod serve;
mod site;
mod transfer;
mod view;
mod watch;
mod wire;

pub(super) use client_connection::ClientConnection;
pub(super) use copy::{Uncopied, Whole, copy};
pub(super) use line::{Fault, Line, LineEnd, Lines, Opener};
pub(super) use serve::serve;
pub(super) use site::{RequestDecision, Site, UpstreamRequest};
