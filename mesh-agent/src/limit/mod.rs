//! How much may be: rates, shares of retries, and counts of what is in flight.
//!
//! Pure and synchronous, time is an argument. What is shared by all workers is made of
//! atomics; a table of keys is bounded, and its parts are locked for one look-up each.
//! Never decides what a limit is for, or what becomes of what is over it.

mod budget;
mod cap;
mod gcra;
mod line;
mod window;

pub(crate) use budget::Budget;
pub(crate) use cap::{Cap, Evicted};
pub(crate) use gcra::{Limiter, Quota};
pub(crate) use line::{Number, WaiterOf};
pub(crate) use window::{SLOTS, Window};
