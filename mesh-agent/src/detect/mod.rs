//! What a connection is, from its first bytes: a ClientHello of the mesh, one
//! of another TLS, HTTP, or something else; and what to expect of a port before.
//!
//! Pure and cheap: looks, never consumes, allocates only for a server name.
//! Never: a verdict from part of a hello. Any prefix of a hello gives
//! [`Hello::NeedMore`] or the verdict of the whole.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod http;
mod port;
#[cfg(test)]
mod tests;

use crate::model::PeerProtocol;
pub(crate) use http::{MAX_REQUEST_LINE, Spoken, http, http2_settings, may_be_answer};
pub(crate) use port::{Expected, Learned, expected};

/// Most bytes a caller need hold before the verdict is certain.
pub(crate) const MAX_HELLO: usize = 20 * 1024;
/// Longest ClientHello message (ours are below 2 KiB).
const MAX_MESSAGE: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;
const ALPN: usize = 16;
/// No protocol of agents has a longer name.
const LONGEST: usize = 16;
/// Longest DNS name.
const MAX_NAME: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// Plaintext, or a protocol of its own.
    NotTls,
    /// Too few bytes to tell.
    NeedMore,
    /// TLS that offers the mesh's application protocol.
    Mesh,
    /// TLS of the application.
    OtherTls { server_name: ServerName },
    /// Begins as TLS and goes on as something else, or is oversized: to be refused.
    Malformed,
}

/// What a hello asks for by `server_name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServerName {
    #[default]
    Absent,
    /// In small letters.
    Is(Box<str>),
    /// Several, or what no host is called: servers read it in different ways.
    Odd,
}

/// Reads the first bytes of a connection.
#[must_use]
pub(crate) fn client_hello(bytes: &[u8]) -> Hello {
    match hello(bytes) {
        Ok(hello) => hello,
        Err(Stop::NotTls) => Hello::NotTls,
        Err(Stop::NeedMore) if bytes.len() < MAX_HELLO => Hello::NeedMore,
        Err(Stop::NeedMore | Stop::Malformed) => Hello::Malformed,
    }
}

enum Stop {
    NotTls,
    NeedMore,
    Malformed,
}

fn hello(bytes: &[u8]) -> Result<Hello, Stop> {
    begins_as_hello(bytes)?;
    let mut cursor = Cursor {
        records: bytes,
        fragment: &[],
        left: 4 + MAX_MESSAGE,
    };
    cursor.byte()?;
    let length = (usize::from(cursor.byte()?) << 16) | cursor.short()?;
    let mut found = Found::default();
    cursor.within(length, |body| body.client_hello(&mut found))?;
    Ok(if found.mesh {
        Hello::Mesh
    } else {
        Hello::OtherTls {
            server_name: found.server_name,
        }
    })
}

/// Record header (any version that begins with 3, as long as a record may be)
/// and message type: what no plaintext protocol of note begins with.
fn begins_as_hello(bytes: &[u8]) -> Result<(), Stop> {
    const SHAPE: [fn(u8) -> bool; 6] = [
        |kind| kind == HANDSHAKE,
        |major| major == 3,
        |minor| minor <= 4,
        |high| high <= 0x40,
        |_| true,
        |message| message == CLIENT_HELLO,
    ];
    let fits = SHAPE.iter().zip(bytes).all(|(check, byte)| check(*byte));
    match (fits, bytes.len()) {
        (false, _) => Err(Stop::NotTls),
        (true, length) if length < SHAPE.len() => Err(Stop::NeedMore),
        (true, _) => Ok(()),
    }
}

#[derive(Default)]
struct Found {
    mesh: bool,
    alpn_seen: bool,
    name_seen: bool,
    server_name: ServerName,
}

/// Reads handshake bytes across records.
struct Cursor<'a> {
    /// What follows the current record.
    records: &'a [u8],
    /// What is left of the current record.
    fragment: &'a [u8],
    /// What is left of the innermost length-prefixed part.
    left: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, Stop> {
        self.left = self.left.checked_sub(1).ok_or(Stop::Malformed)?;
        self.fill()?;
        let (byte, rest) = self.fragment.split_first().ok_or(Stop::NeedMore)?;
        self.fragment = rest;
        Ok(*byte)
    }

    /// Moves to the next record when this one is used up.
    fn fill(&mut self) -> Result<(), Stop> {
        if !self.fragment.is_empty() {
            return Ok(());
        }
        let header = self.records.get(..5).ok_or(Stop::NeedMore)?;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let is_handshake = header[0] == HANDSHAKE && header[1] == 3;
        if !is_handshake || !(1..=0x4000).contains(&length) {
            return Err(Stop::Malformed);
        }
        // A record that is not whole yet ends `records`: what follows is NeedMore.
        let end = self.records.len().min(5 + length);
        self.fragment = &self.records[5..end];
        self.records = &self.records[end..];
        Ok(())
    }

    fn short(&mut self) -> Result<usize, Stop> {
        Ok(usize::from(u16::from_be_bytes([
            self.byte()?,
            self.byte()?,
        ])))
    }

    fn skip(&mut self, mut count: usize) -> Result<(), Stop> {
        self.left = self.left.checked_sub(count).ok_or(Stop::Malformed)?;
        while count > 0 {
            self.fill()?;
            let step = count.min(self.fragment.len());
            if step == 0 {
                return Err(Stop::NeedMore);
            }
            self.fragment = &self.fragment[step..];
            count -= step;
        }
        Ok(())
    }

    /// Runs `read` on the next `length` bytes, which it must use up exactly.
    fn within<T>(
        &mut self,
        length: usize,
        read: impl FnOnce(&mut Self) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let behind = self.left.checked_sub(length).ok_or(Stop::Malformed)?;
        self.left = length;
        let value = read(self)?;
        if self.left != 0 {
            return Err(Stop::Malformed);
        }
        self.left = behind;
        Ok(value)
    }

    /// RFC 8446, section 4.1.2.
    fn client_hello(&mut self, found: &mut Found) -> Result<(), Stop> {
        self.skip(2 + 32)?;
        let session = usize::from(self.byte()?);
        self.skip(session)?;
        let suites = self.short()?;
        self.skip(suites)?;
        let compressions = usize::from(self.byte()?);
        self.skip(compressions)?;
        if self.left == 0 {
            // Before TLS 1.3 a hello may have no extensions.
            return Ok(());
        }
        let extensions = self.short()?;
        self.within(extensions, |all| {
            while all.left > 0 {
                let kind = all.short()?;
                let length = all.short()?;
                all.within(length, |one| one.extension(kind, found))?;
            }
            Ok(())
        })
    }

    fn extension(&mut self, kind: usize, found: &mut Found) -> Result<(), Stop> {
        match kind {
            ALPN if std::mem::replace(&mut found.alpn_seen, true) => Err(Stop::Malformed),
            SERVER_NAME if std::mem::replace(&mut found.name_seen, true) => Err(Stop::Malformed),
            ALPN => self.protocols(found),
            SERVER_NAME => self.server_name(found),
            _ => self.skip(self.left),
        }
    }

    /// RFC 7301, section 3.1.
    fn protocols(&mut self, found: &mut Found) -> Result<(), Stop> {
        let length = self.short()?;
        self.within(length, |list| {
            while list.left > 0 {
                let length = usize::from(list.byte()?);
                list.within(length, |name| {
                    found.mesh |= name.is_a_peers()?;
                    Ok(())
                })?;
            }
            Ok(())
        })
    }

    /// Is the part the name of a protocol that agents speak? Uses it up.
    fn is_a_peers(&mut self) -> Result<bool, Stop> {
        let (mut name, mut length) = ([0; LONGEST], 0);
        while self.left > 0 {
            let byte = self.byte()?;
            if let Some(place) = name.get_mut(length) {
                *place = byte;
            }
            length += 1;
        }
        let name = name.get(..length);
        Ok(name.and_then(PeerProtocol::of_alpn).is_some())
    }

    /// RFC 6066, section 3: a list, of which servers take one name of a host.
    fn server_name(&mut self, found: &mut Found) -> Result<(), Stop> {
        let length = self.short()?;
        self.within(length, |list| {
            let mut name = None;
            while list.left > 0 {
                let kind = list.byte()?;
                let length = list.short()?;
                let one = list.within(length, |one| one.host_name(kind))?;
                name = Some(name.map_or(one, |_before| ServerName::Odd));
            }
            found.server_name = name.unwrap_or(ServerName::Odd);
            Ok(())
        })
    }

    fn host_name(&mut self, kind: u8) -> Result<ServerName, Stop> {
        const HOST_NAME: u8 = 0;
        if kind != HOST_NAME || self.left > MAX_NAME {
            self.skip(self.left)?;
            return Ok(ServerName::Odd);
        }
        let mut name = String::with_capacity(self.left);
        while self.left > 0 {
            name.push(char::from(self.byte()?.to_ascii_lowercase()));
        }
        Ok(match is_host_name(&name) {
            true => ServerName::Is(name.into_boxed_str()),
            false => ServerName::Odd,
        })
    }
}

/// A name as a hello may ask for it, in small letters; empty: it asks for none. `None`:
/// what no host is called.
#[must_use]
pub(crate) fn server_name(text: &str) -> Option<Box<str>> {
    let name = text.to_ascii_lowercase();
    let is_one = name.len() <= MAX_NAME && is_host_name(&name);
    (name.is_empty() || is_one).then(|| name.into_boxed_str())
}

/// As a hello has it: without a dot at its end.
fn is_host_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let mut labels = name.split('.');
    labels.all(|label| !label.is_empty() && label.bytes().all(allowed))
}
