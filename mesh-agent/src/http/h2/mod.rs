//! HTTP/2 on any stream of bytes: windows and limits by hop, heads checked beyond
//! what crate h2 does, capacity by hand, and codes of resets kept.
//!
//! One connection is one fate: whatever can kill or stall all its exchanges is
//! kept away from it. The connection's future does all I/O and has a task of its
//! own, and sends together what a turn of it writes. Never: data queued beyond what the
//! peer takes, or an empty frame of it.

mod batch;
mod blocks;
mod client;
mod counted;
mod edit;
mod fate;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod head;
mod limits;
mod queue;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use ::h2::{Error, Reason};
pub(crate) use ::http::{HeaderMap, request, response};
pub(crate) use client::{Answered, Client, Informed, connect};
pub(crate) use edit::{
    Forwarded, answer_trailers, forwarded, held, passed_back, request_trailers, size,
};
pub(crate) use fate::{Fate, fate};
pub(crate) use head::{Head, HeadLines, answer_head, is_tunnel};
pub(crate) use limits::{Hop, STREAMS};
pub(crate) use server::{Exchange, Respond, Server, Unsent, serve};
pub(crate) use stream::{Cut, Receiver, Sender};
