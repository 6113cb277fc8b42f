//! What agents speak with each other.

/// A protocol between two agents on one connection; in the handshake it goes by
/// its ALPN. Connections of different protocols do not stand in for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerProtocol {
    /// One stream at a time (`docs/protocol.md`).
    Mesh1,
    /// Channels, each of which carries what a connection of its own would.
    Shared1,
}

impl PeerProtocol {
    /// All that are accepted, the one that is liked best first.
    pub(crate) const ALL: &'static [Self] = &[Self::Shared1, Self::Mesh1];

    #[must_use]
    pub(crate) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Mesh1 => b"mesh/1",
            Self::Shared1 => b"mesh-shared/1",
        }
    }

    /// What a client offers that wants to speak it: who does not speak it speaks the last one.
    #[must_use]
    pub(crate) const fn offered(self) -> &'static [Self] {
        match self {
            Self::Mesh1 => &[Self::Mesh1],
            Self::Shared1 => Self::ALL,
        }
    }

    /// `None` for what no agent speaks.
    #[must_use]
    pub(crate) fn of_alpn(name: &[u8]) -> Option<Self> {
        let is_it = |protocol: &&Self| protocol.alpn() == name;
        Self::ALL.iter().find(is_it).copied()
    }
}
