//! Where in a file a field stands.
//!
//! Read once more, and only where there is something to point at: objects do
//! not keep the places of their fields.

use super::Problem;
use super::documents::documents;
use super::tree::{Position, yaml};

/// Sets line and column of the fields that the problems are about, as far as
/// their files still have them.
pub(super) fn locate(problems: &mut [Problem]) {
    problems.sort_by(|a, b| a.origin.order().cmp(&b.origin.order()));
    let is_open = |p: &&mut Problem| p.origin.is_document() && !p.field.is_empty();
    let mut open: Vec<&mut Problem> = problems.iter_mut().filter(is_open).collect();
    for of_file in open.chunk_by_mut(|a, b| a.origin.place == b.origin.place) {
        let file = of_file[0].origin.place.as_file();
        let Some(text) = file.and_then(super::files::text) else {
            continue;
        };
        let documents = documents(&text);
        let line = |problem: &Problem| problem.origin.first_line();
        for of_document in of_file.chunk_by_mut(|a, b| line(a) == line(b)) {
            let line = line(of_document[0]);
            let document = documents.iter().find(|(at, _)| *at == line);
            let Some(node) = document.and_then(|(_, text)| yaml(text).ok()) else {
                continue;
            };
            for problem in of_document {
                let path = [problem.origin.item(), problem.field.as_str()];
                let path: Vec<_> = path.into_iter().filter(|part| !part.is_empty()).collect();
                if let Some(Position { line, column }) = node.find(&path.join(".")) {
                    problem.origin = problem.origin.exactly(line.saturating_sub(1), column);
                }
            }
        }
    }
}
