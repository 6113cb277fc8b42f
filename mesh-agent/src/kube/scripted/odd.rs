//! How it misbehaves.

/// What it does once, to the next request that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Odd {
    /// A watch begins with 410 as its code.
    GoneByCode,
    /// A watch tells 410.
    GoneByEvent,
    /// A list breaks off after half of it.
    HalfList,
    /// A list takes its time.
    SlowList,
    /// Any request is answered so.
    Refuse(u16),
    /// Any request is not answered at all.
    Stall,
    /// A watch tells what is no event.
    Garbage,
    /// What a watch has to tell comes twice.
    Repeat,
    /// What a watch has to tell comes the other way round.
    Reverse,
}

impl Odd {
    /// What a server does that is on its way to be well again; a test may add to it.
    pub(crate) const PASSING: [Self; 8] = [
        Self::GoneByCode,
        Self::GoneByEvent,
        Self::HalfList,
        Self::SlowList,
        Self::Refuse(503),
        Self::Garbage,
        Self::Repeat,
        Self::Reverse,
    ];

    pub(super) fn fits(self, is_watch: bool) -> bool {
        match self {
            Self::GoneByCode | Self::GoneByEvent | Self::Garbage => is_watch,
            // Chosen where events are.
            Self::Repeat | Self::Reverse => false,
            Self::HalfList | Self::SlowList => !is_watch,
            Self::Refuse(_) | Self::Stall => true,
        }
    }
}
