//! HTTP/1.0 and 1.1, by slices.

mod bad;
mod body;
mod encode;
mod framing;
mod lines;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod trailers;

pub(crate) use bad::{Bad, MAX_INFORMATIONAL, Side};
pub(crate) use body::Body;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use body::Followed;
pub(in crate::http) use encode::push_line;
pub(crate) use encode::{InvalidEdit, encode_request, encode_response};
pub(crate) use framing::Framing;
pub(crate) use lines::{Lines, MAX_HEAD, MAX_LINES, Parsed, Scan};
pub(in crate::http) use request::split_target;
pub(crate) use request::{Asked, Request, is_offer, request_head};
pub(crate) use response::{Response, response_head};
