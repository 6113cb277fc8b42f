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
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub(crate) use body::{Body, Followed};
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub(in crate::http) use encode::push_line;
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub(crate) use encode::{InvalidEdit, encode_request, encode_response};
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub(crate) use framing::Framing;
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub(crate) use lines::{Lines, MAX_HEAD, MAX_LINES, Parsed, Scan};
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub(in crate::http) use request::split_target;
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub(crate) use request::{Asked, Request, is_offer, request_head};
#[allow(unused_imports, reason = "the HTTP data path comes in parts")]
pub(crate) use response::{Response, response_head};
