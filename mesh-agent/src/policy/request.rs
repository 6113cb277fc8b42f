//! What a policy is asked about.

use std::net::IpAddr;

use crate::model::{SpiffeId, Workload};

/// One connection to decide on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Proven by certificate or kernel; `None` for plaintext.
    pub source: Option<&'a SpiffeId>,
    pub source_ip: IpAddr,
    pub destination: &'a Workload,
    pub destination_ip: IpAddr,
    /// The application's own port.
    pub destination_port: u16,
    /// `None` when it is not known: conditions on it then read restrictively.
    pub sni: Option<&'a str>,
}
