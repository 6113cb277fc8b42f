//! What two ends of TLS tell each other in the clear: their hellos.

/// A ClientHello or ServerHello, as far as it decides on version and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Cipher suites that are offered, or the one that was chosen.
    pub ciphers: Vec<u16>,
    /// Groups of the key shares, each with the length of its share.
    pub key_shares: Vec<(u16, usize)>,
    /// Of the extension `supported_versions`.
    pub versions: Vec<u16>,
    /// Types of all extensions.
    pub extensions: Vec<u16>,
}

pub const TLS13: u16 = 0x0304;
pub const X25519_MLKEM768: u16 = 0x11ec;
pub const SERVER_NAME: u16 = 0;
pub const PRE_SHARED_KEY: u16 = 41;
pub const EARLY_DATA: u16 = 42;

const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

impl Hello {
    /// The one that a direction of a connection begins with, in one record.
    #[must_use]
    pub fn parse(flow: &[u8]) -> Option<Self> {
        let mut record = Reader(flow);
        if record.byte()? != HANDSHAKE {
            return None;
        }
        record.short()?;
        let mut message = Reader(record.long()?);
        let kind = message.byte()?;
        let length = (usize::from(message.byte()?) << 16) | usize::from(message.short()?);
        let mut body = Reader(message.take(length)?);
        body.take(2 + 32)?;
        body.block()?;
        match kind {
            CLIENT_HELLO => {
                let ciphers = shorts(body.long()?);
                body.block()?;
                Self::extensions(ciphers, body, true)
            }
            SERVER_HELLO => {
                let ciphers = vec![body.short()?];
                body.byte()?;
                Self::extensions(ciphers, body, false)
            }
            _ => None,
        }
    }

    fn extensions(ciphers: Vec<u16>, mut body: Reader<'_>, is_offer: bool) -> Option<Self> {
        let mut found = Self {
            ciphers,
            key_shares: vec![],
            versions: vec![],
            extensions: vec![],
        };
        let mut all = Reader(body.long()?);
        while !all.0.is_empty() {
            let kind = all.short()?;
            let mut content = Reader(all.long()?);
            found.extensions.push(kind);
            match kind {
                SUPPORTED_VERSIONS if is_offer => found.versions = shorts(content.block()?),
                SUPPORTED_VERSIONS => found.versions = vec![content.short()?],
                KEY_SHARE => {
                    let shares = if is_offer { content.long()? } else { content.0 };
                    found.key_shares = key_shares(Reader(shares))?;
                }
                _ => {}
            }
        }
        Some(found)
    }
}

fn key_shares(mut shares: Reader<'_>) -> Option<Vec<(u16, usize)>> {
    let mut found = vec![];
    while !shares.0.is_empty() {
        let group = shares.short()?;
        found.push((group, shares.long()?.len()));
    }
    Some(found)
}

fn shorts(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _) = bytes.as_chunks();
    pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// What a length of one byte stands before.
    fn block(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    /// What a length of two bytes stands before.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length.into())
    }
}
