//! Mutual TLS between agents, and the TLS of the channel to the certificate
//! authority. The only module that knows rustls, webpki and aws-lc.
//!
//! [`connect`] and [`accept`] drive one TLS 1.3 handshake over a borrowed TCP
//! socket and yield a [`Session`]: who the peer is ([`PeerId`], which only a
//! verified handshake makes), and the keys as [`Records`], which seal and open
//! records in place. Each failure is one [`TlsFailure`](crate::model::TlsFailure),
//! and the peer is told by an alert.
//!
//! Never: TLS below 1.3, early data, session resumption, a handshake without
//! both certificates, a key that leaves memory or stays in it after its drop.
//!
//! How a caller goes about it:
//! 1. [`warm`] once on each worker thread.
//! 2. `Trust::new` from roots and CRL; `PrivateKey::generate`, its `csr` to the
//!    CA, `Credentials::new` with the answer.
//! 3. `connect` with the identities that the address may have, or `accept`.
//! 4. First consume `Session::early`, then what the socket has: [`Records::open`]
//!    record by record. Before each batch of [`Records::seal`], send what
//!    [`Records::take_outgoing`] gives. At the end send [`Records::close_notify`].
//!
//! A client that the server refuses learns it only from its first `open`
//! ([`RecordError::Alert`]): in TLS 1.3 the server verifies last.

mod ca_channel;
mod credentials;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handshake;
mod key;
mod keys;
mod leaf;
mod merge;
mod path;
mod peer;
mod provider;
mod records;
mod revocation;
mod schedule;
mod shown;
mod trust;
mod verify;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use ca_channel::{CaClient, CaName, CaServer, CaStream};
pub(crate) use credentials::{Credentials, CredentialsError};
pub(crate) use handshake::{Session, accept, connect};
pub(crate) use key::{KeyError, PrivateKey};
pub(crate) use keys::{HEAD, MAX_PLAINTEXT, RecordError, TAIL};
pub(crate) use leaf::Fingerprint;
pub(crate) use merge::{Merged, merge_crl};
pub(crate) use peer::PeerId;
pub(crate) use provider::warm;
pub(crate) use records::{MAX_CIPHERTEXT, Opened, Records};
pub(crate) use revocation::CrlError;
pub(crate) use trust::{Trust, TrustError};
