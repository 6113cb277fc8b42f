//! How much of a kind a source has told.

/// What the source has told of a kind as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::discovery) enum Listed {
    /// Of a directory: if it has any, it has them all.
    #[default]
    AsGiven,
    /// Nothing yet, or it may not be read.
    Not,
    /// The API server does not have the kind.
    Absent,
    All,
}
