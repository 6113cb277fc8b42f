//! One object of the API by itself: what of it is not understood.

use super::documents::{Parsed, parse_again};
use super::intern::Interner;
use super::kinds::NOT_YET;
use super::origin::Place;

/// The mistakes in an object as the API server has it, each as field and sentence:
/// by the same reader, and the same table of kinds, as what is in force.
pub(crate) fn mistakes(path: &str, json: &[u8]) -> Vec<String> {
    let parsed = parsed(path, json);
    let mistakes = parsed.problems.iter().filter(|p| p.is_mistake());
    let sentence = |p: &super::Problem| match p.field.as_str() {
        "" | "." => p.message.clone(),
        field => format!("{field}: {}", p.message),
    };
    mistakes.map(sentence).collect()
}

/// Its fields that are read, and have no effect yet.
pub(crate) fn without_effect(path: &str, json: &[u8]) -> Vec<String> {
    let parsed = parsed(path, json);
    let without = parsed.problems.iter().filter(|p| p.message == NOT_YET);
    without.map(|p| p.field.clone()).collect()
}

fn parsed(path: &str, json: &[u8]) -> Parsed {
    let place = Place::resource(path);
    let documents = parse_again(&place, json, &[], &mut Interner::default());
    Parsed::of_documents(&place, &documents)
}
