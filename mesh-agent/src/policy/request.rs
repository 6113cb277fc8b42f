//! What a policy is asked about.

use std::net::IpAddr;

use crate::model::{RequestHead, SpiffeId, Workload};

/// A connection, or a request on one, to decide on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// Proven by certificate or kernel; `None` for plaintext.
    pub(crate) source: Option<&'a SpiffeId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination: &'a Workload,
    pub(crate) destination_ip: IpAddr,
    /// The application's own port.
    pub(crate) destination_port: u16,
    /// The name that a TLS hello of the application's own asks for, empty where it asks
    /// for none. `None`: no hello was seen.
    pub(crate) sni: Option<&'a str>,
    /// `None`: no request was seen (yet).
    pub(crate) http: Option<&'a RequestHead<'a>>,
}
