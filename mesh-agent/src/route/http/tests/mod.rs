//! Decisions: the cases of the conformance suite by their names, what the API's
//! text says beside, and everything against a model written straight from it.

mod conformance;
mod connections;
mod filters;
mod many;
mod naive;
mod rules;
mod world;
