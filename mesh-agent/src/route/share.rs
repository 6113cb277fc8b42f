//! How much of the requests, or of the connections, one decision gets.

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) weight: u64,
    pub(crate) of: u64,
}

impl Share {
    pub(super) const ALL: Self = Self { weight: 1, of: 1 };

    /// Of backends by the numbers that each is chosen below.
    pub(super) fn of(below: impl Iterator<Item = u64> + Clone) -> Vec<Self> {
        let of = below.clone().last().unwrap_or_default();
        let mut before = 0;
        let weights = below.map(|below| below - std::mem::replace(&mut before, below));
        weights.map(|weight| Self { weight, of }).collect()
    }
}
