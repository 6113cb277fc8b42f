//! HTTP on the wire: heads, where bodies end, what an agent may change of them,
//! and its own answers. The only module that knows httparse and h2.
//!
//! `h1` does no I/O: it looks at slices, and says how many bytes belong to what.
//! Messages go on byte for byte but for what [`crate::model::Edits`] name. What has
//! more than one meaning is refused, what is odd but clear is served; `docs/http.md`
//! has the list. Never: a guess where a message ends.

pub(crate) mod answer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub(crate) mod grpc;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod hygiene;
pub(crate) mod names;
#[cfg(any(test, feature = "fuzzing"))]
mod oracle;
pub(crate) mod trace;
