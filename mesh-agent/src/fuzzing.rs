//! The bodies of the fuzz targets, one for each parser of outside bytes.
//!
//! Written once: `fuzz/` runs them under libFuzzer, and an ordinary test here
//! replays the committed corpora with mutations of them. A body panics on what
//! must never be; it never judges by time.

#[cfg(test)]
pub(crate) mod mutate;
mod routed;
#[cfg(test)]
mod tests;

use crate::{ca, detect, discovery, http, proxy, route, tls, tunnel};

/// A parser of outside bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of its file in `fuzz/fuzz_targets` and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    pub body: fn(&[u8]),
}

const fn target(name: &'static str, body: fn(&[u8])) -> Target {
    Target { name, body }
}

/// `mesh/1`: frames, OPEN, and the states of streams.
pub const FRAMES: Target = target("frames", tunnel::fuzz::frames);
/// `mesh-shared/1`: frames, and the states of channels.
pub const SHARED: Target = target("shared", tunnel::fuzz_shared::shared);
/// TLS records after the handshake.
pub const RECORDS: Target = target("records", tls::fuzz::records);
/// Certificates and chains of peers.
pub const CERTIFICATE: Target = target("certificate", tls::fuzz::certificate);
/// Roots and revocation lists.
pub const TRUST: Target = target("trust", tls::fuzz::trust);
/// SPIFFE IDs.
pub const IDENTITY: Target = target("identity", tls::fuzz::identity);
/// Certificate requests, as the authority reads them.
pub const REQUEST: Target = target("request", ca::fuzz_request);
/// ClientHellos.
pub const HELLO: Target = target("hello", detect::fuzz::hello);
/// Whether a client speaks HTTP.
pub const SPOKEN: Target = target("spoken", detect::fuzz::spoken);
/// What an inbound connection is taken for.
pub const SNIFF: Target = target("sniff", proxy::fuzz_first_bytes);
/// Configuration files, policies in them above all.
pub const CONFIG: Target = target("config", discovery::fuzz::config);
/// Connections of HTTP/1 clients, held to what hyper reads of what is sent on.
pub const HTTP_REQUEST: Target = target("http-request", http::fuzz::request);
/// Answers of HTTP/1 applications, held to what hyper reads of what is sent back.
pub const HTTP_RESPONSE: Target = target("http-response", http::fuzz::response);
/// Paths and hosts.
pub const HTTP_TARGET: Target = target("http-target", http::fuzz::target);

/// What servers of HTTP/2 send, in pieces.
pub const HTTP2_FRAMES: Target = target("http2-frames", http::h2::fuzz::frames);
/// Heads of HTTP/2, held to what the HTTP/1 codec reads in them.
pub const HTTP2_HEAD: Target = target("http2-head", http::h2::fuzz::head);
/// What HTTP/2 peers send, in pieces: lines are counted as h2 reads them.
pub const HTTP2_BLOCKS: Target = target("http2-blocks", http::h2::fuzz::blocks);
/// Requests that rules of routes rewrite and redirect, with a time and a trace.
pub const ROUTED: Target = target("routed", routed::routed);
/// What clients have of sessions.
pub const SESSION: Target = target("session", route::http::fuzz_session::session);

pub const TARGETS: &[Target] = &[
    FRAMES,
    SHARED,
    RECORDS,
    CERTIFICATE,
    TRUST,
    IDENTITY,
    REQUEST,
    HELLO,
    SPOKEN,
    SNIFF,
    CONFIG,
    HTTP_REQUEST,
    HTTP_RESPONSE,
    HTTP_TARGET,
    HTTP2_FRAMES,
    HTTP2_HEAD,
    HTTP2_BLOCKS,
    ROUTED,
    SESSION,
];
