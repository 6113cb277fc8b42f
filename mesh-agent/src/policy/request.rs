//! What a policy is asked about.

use std::net::IpAddr;

use crate::model::{RequestHead, SpiffeId, Workload};

/// A connection, or a request on one, to decide on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Proven by certificate or kernel; `None` for plaintext.
    pub source: Option<&'a SpiffeId>,
    pub source_ip: IpAddr,
    pub destination: &'a Workload,
    pub destination_ip: IpAddr,
    /// The application's own port.
    pub destination_port: u16,
    /// The name that a TLS hello of the application's own asks for, empty where it asks
    /// for none. `None`: no hello was seen.
    pub sni: Option<&'a str>,
    /// `None`: no request was seen (yet).
    pub http: Option<&'a RequestHead<'a>>,
}
