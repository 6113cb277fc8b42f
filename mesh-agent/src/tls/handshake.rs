//! One handshake over a borrowed socket.
//!
//! rustls is fed record by record, so that what follows the handshake is never
//! decrypted by it: keys and leftover ciphertext pass to [`Records`] whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use super::failure::from_rustls;
use super::keys::HEAD;
use super::path::{self, Path};
use super::peer::PeerId;
use super::records::{MAX_CIPHERTEXT, Records};
use super::schedule::{self, CapturedSecrets};
use super::{Credentials, provider, shown};
use crate::model::{
    PeerCertificate, PeerProtocol, RefuseReason, Refused, SpiffeId, TlsFailure, TlsParameters,
};

/// What a peer may send before we know it: a chain of 32 KiB and the rest.
const MAX_HANDSHAKE: usize = 40 * 1024;
/// First size of the receive buffer: a hello, or a short chain with its signature.
const FIRST_READ: usize = 4 * 1024;
/// What a refused peer has sent meanwhile is read away up to here, so that
/// closing sends FIN (the alert arrives) and not RST.
const MAX_DRAIN: usize = 64 * 1024;
/// Records of a peer that are looked at before others run. An honest handshake
/// has fewer; one of single bytes may have thousands.
const RECORDS_PER_YIELD: usize = 16;
/// Content types of TLS 1.3.
const RECORD_KINDS: std::ops::RangeInclusive<u8> = 20..=23;
/// Alert `no_application_protocol` (RFC 7301).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// A handshake that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) failure: TlsFailure,
    /// What the peer's certificate says, if it showed one that was refused: a
    /// claim of somebody who proved nothing.
    pub(crate) shown: Option<Arc<PeerCertificate>>,
}

impl From<Failed> for Refused {
    fn from(failed: Failed) -> Self {
        Self {
            shown: failed.shown,
            ..RefuseReason::Tls(failed.failure).into()
        }
    }
}

impl From<TlsFailure> for Failed {
    fn from(failure: TlsFailure) -> Self {
        Self {
            failure,
            shown: None,
        }
    }
}

/// A finished handshake.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) peer: PeerId,
    /// What both speak from now on.
    pub(crate) protocol: PeerProtocol,
    pub(crate) records: Records,
    /// Ciphertext that came right behind the handshake: goes through
    /// [`Records::open`] before anything that is read from the socket.
    pub(crate) early: Vec<u8>,
    /// What was agreed on, for log and metrics.
    pub(crate) parameters: TlsParameters,
}

/// As the client, to one of `expected`, to speak `protocol`. After an error the socket is of no
/// more use; drop it (a FIN, not RST, lets our alert arrive).
pub(crate) async fn connect(
    stream: &TcpStream,
    credentials: &Credentials,
    expected: &[SpiffeId],
    protocol: PeerProtocol,
    deadline: Duration,
) -> Result<Session, Failed> {
    // Not sent (no SNI) and not compared: identity is in the URI SAN.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let config = credentials.client_config(expected, protocol);
    let connection =
        UnbufferedClientConnection::new(config, name).map_err(|error| from_rustls(&error))?;
    localized(drive(stream, connection, deadline).await?, credentials).map_err(Failed::from)
}

/// As the server, from any workload of the trust domain.
pub(crate) async fn accept(
    stream: &TcpStream,
    credentials: &Credentials,
    deadline: Duration,
) -> Result<Session, Failed> {
    let connection = UnbufferedServerConnection::new(credentials.server_config())
        .map_err(|error| from_rustls(&error))?;
    localized(drive(stream, connection, deadline).await?, credentials).map_err(Failed::from)
}

/// A peer of an alias is the same workload of the own trust domain, to all that
/// ask who it is.
fn localized(session: Session, credentials: &Credentials) -> Result<Session, TlsFailure> {
    let id = credentials.trust().localize(session.peer.spiffe_id())?;
    let peer = session.peer.called(id);
    Ok(Session { peer, ..session })
}

async fn drive<S: Side>(
    stream: &TcpStream,
    connection: S,
    deadline: Duration,
) -> Result<Session, Failed> {
    let mut driver = Driver {
        stream,
        connection,
        incoming: Vec::new(),
        fed: 0,
        outgoing: Vec::new(),
        received: 0,
        captured: CapturedSecrets::default(),
        verified: None,
    };
    match tokio::time::timeout(deadline, driver.run()).await {
        Ok(Ok(())) => driver.finish().map_err(Failed::from),
        Ok(Err(failed)) => Err(failed),
        Err(_) => Err(TlsFailure::Timeout.into()),
    }
}

/// What rustls wants next.
enum Step {
    Again,
    NeedRead,
    Done,
}

struct Driver<'a, S> {
    stream: &'a TcpStream,
    connection: S,
    /// Received and not yet done with.
    incoming: Vec<u8>,
    /// How much of `incoming` rustls has been shown: whole records.
    fed: usize,
    outgoing: Vec<u8>,
    received: usize,
    captured: CapturedSecrets,
    /// What the peer's chain was verified by.
    verified: Option<Path>,
}

impl<S: Side> Driver<'_, S> {
    async fn run(&mut self) -> Result<(), Failed> {
        let mut records = 0_usize;
        loop {
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::NeedRead) if self.feed_record() => {
                    records += 1;
                    if records.is_multiple_of(RECORDS_PER_YIELD) {
                        tokio::task::yield_now().await;
                    }
                }
                Ok(Step::NeedRead) => {
                    self.flush().await?;
                    self.read().await?;
                }
                Ok(Step::Done) => return Ok(self.flush().await?),
                Err(error @ rustls::Error::AlertReceived(_)) => {
                    return Err(from_rustls(&error).into());
                }
                Err(error) => {
                    // Before anything else runs on this thread.
                    let shown = shown::take();
                    self.send_alert().await;
                    let failure = from_rustls(&error);
                    return Err(Failed { failure, shown });
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step, rustls::Error> {
        let (connection, incoming) = (&mut self.connection, &mut self.incoming[..self.fed]);
        let status = path::capture(&mut self.verified, || {
            schedule::capture(&mut self.captured, || connection.process(incoming))
        });
        let (discard, step) = S::advance(status, &mut self.outgoing);
        self.incoming.drain(..discard);
        self.fed -= discard;
        match step {
            // A server that sends half-RTT data may write before the client has proved
            // itself. Ours does not; should that change, this still waits.
            Ok(Step::Done) if self.connection.common().is_handshaking() => Ok(Step::NeedRead),
            other => other,
        }
    }

    /// Shows rustls one more record, if a whole one is there (or what is
    /// there, if that can be no record: the error is rustls' to find).
    fn feed_record(&mut self) -> bool {
        let Some([kind, _, _, high, low]) = self.incoming[self.fed..].first_chunk::<HEAD>() else {
            return false;
        };
        let length = HEAD + usize::from(u16::from_be_bytes([*high, *low]));
        let is_record = RECORD_KINDS.contains(kind) && length <= MAX_CIPHERTEXT;
        let end = if is_record {
            self.fed + length
        } else {
            self.incoming.len()
        };
        let is_whole = end <= self.incoming.len();
        if is_whole {
            self.fed = end;
        }
        is_whole
    }

    async fn read(&mut self) -> Result<(), TlsFailure> {
        loop {
            self.stream
                .readable()
                .await
                .map_err(|_| TlsFailure::Closed)?;
            let room = FIRST_READ.max(self.incoming.len());
            let start = self.incoming.len();
            if self.received >= MAX_HANDSHAKE {
                return Err(TlsFailure::ChainTooLarge);
            }
            let room = room.min(MAX_HANDSHAKE - self.received);
            self.incoming.resize(start + room, 0);
            let read = self.stream.try_read(&mut self.incoming[start..]);
            self.incoming
                .truncate(start + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => return Err(TlsFailure::Closed),
                Ok(count) => {
                    self.received += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(TlsFailure::Closed),
            }
        }
    }

    async fn flush(&mut self) -> Result<(), TlsFailure> {
        write_all(self.stream, &self.outgoing)
            .await
            .map_err(|_| TlsFailure::Closed)?;
        self.outgoing.clear();
        Ok(())
    }

    /// Tells the peer what rustls has to say about the error.
    async fn send_alert(&mut self) {
        // Once: the alert comes out before any input is looked at. Another step
        // would read on in what has failed already, which rustls does not expect.
        let _ = self.step();
        // The failure that is reported is the first one, whatever becomes of this.
        let _ = self.flush().await;
        drain(self.stream);
    }

    fn finish(self) -> Result<Session, TlsFailure> {
        // Part of a message behind the last one: no honest peer sends that.
        if self.fed != 0 {
            return Err(TlsFailure::Malformed);
        }
        let common = self.connection.common();
        let protocol = common.alpn_protocol().and_then(PeerProtocol::of_alpn);
        let parameters = provider::parameters(common).ok_or(TlsFailure::NoCommonProtocol)?;
        let verified = self.verified.ok_or(TlsFailure::NoCertificate)?;
        let chain = common.peer_certificates().unwrap_or_default();
        let peer = PeerId::from_verified(chain, verified)?;
        let mut records = self.connection.into_records(self.captured)?;
        let Some(protocol) = protocol else {
            if let Ok(alert) = records.fatal_alert(NO_APPLICATION_PROTOCOL) {
                // 24 bytes into a buffer that has just been emptied.
                let _ = self.stream.try_write(&alert);
            }
            drain(self.stream);
            return Err(TlsFailure::NoCommonProtocol);
        };
        let mut early = self.incoming;
        early.shrink_to_fit();
        Ok(Session {
            peer,
            protocol,
            records,
            early,
            parameters,
        })
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.writable().await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn drain(stream: &TcpStream) {
    let mut sink = [0; 4096];
    let mut drained = 0;
    while drained < MAX_DRAIN {
        match stream.try_read(&mut sink) {
            Ok(count) if count > 0 => drained += count,
            _ => return,
        }
    }
}

/// The client's and the server's connection, which rustls keeps as two types.
trait Side: Sized {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &rustls::CommonState;

    fn into_records(self, captured: CapturedSecrets) -> Result<Records, TlsFailure>;

    /// Does what the state asks for; bytes to discard and the next step.
    fn advance(
        status: UnbufferedStatus<'_, '_, Self::Data>,
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Step, rustls::Error>) {
        let UnbufferedStatus { discard, state } = status;
        let step = state.and_then(|state| match state {
            ConnectionState::EncodeTlsData(mut data) => {
                encode(outgoing, |room| data.encode(room)).map(|()| Step::Again)
            }
            // Kept in `outgoing`, which is flushed before the next read.
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Ok(Step::Again)
            }
            ConnectionState::BlockedHandshake => Ok(Step::NeedRead),
            ConnectionState::WriteTraffic(_) => Ok(Step::Done),
            // Data or an end before the handshake's: not fed by us, so not from an honest peer.
            _ => Err(rustls::Error::HandshakeNotComplete),
        });
        (discard, step)
    }
}

fn encode(
    outgoing: &mut Vec<u8>,
    mut into: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let start = outgoing.len();
    let Err(EncodeError::InsufficientSize(size)) = into(&mut []) else {
        return Err(rustls::Error::EncryptError);
    };
    outgoing.resize(start + size.required_size, 0);
    into(&mut outgoing[start..]).map_err(|_| rustls::Error::EncryptError)?;
    Ok(())
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        UnbufferedConnectionCommon::<ClientConnectionData>::process_tls_records(self, incoming)
    }

    fn common(&self) -> &rustls::CommonState {
        self
    }

    fn into_records(self, captured: CapturedSecrets) -> Result<Records, TlsFailure> {
        // The rest of what rustls keeps is dropped.
        let (secrets, _) = self
            .dangerous_into_kernel_connection()
            .map_err(|error| from_rustls(&error))?;
        Records::new(schedule::Side::Client, &secrets, captured).map_err(|_| TlsFailure::Malformed)
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        UnbufferedConnectionCommon::<ServerConnectionData>::process_tls_records(self, incoming)
    }

    fn common(&self) -> &rustls::CommonState {
        self
    }

    fn into_records(self, captured: CapturedSecrets) -> Result<Records, TlsFailure> {
        // The rest of what rustls keeps is dropped.
        let (secrets, _) = self
            .dangerous_into_kernel_connection()
            .map_err(|error| from_rustls(&error))?;
        Records::new(schedule::Side::Server, &secrets, captured).map_err(|_| TlsFailure::Malformed)
    }
}
