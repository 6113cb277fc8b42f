//! Where in a file a field stands.
//!
//! Read once more, and only where there is something to point at: objects do
//! not keep the places of their fields.

use super::Problem;
use super::documents::documents;
use super::tree::{Place, yaml};

/// Sets line and column of the fields that the problems are about, as far as
/// their files still have them.
pub(super) fn locate(problems: &mut [Problem]) {
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    let is_open = |p: &&mut Problem| p.line != 0 && p.column == 0 && !p.field.is_empty();
    let mut open: Vec<&mut Problem> = problems.iter_mut().filter(is_open).collect();
    for of_file in open.chunk_by_mut(|a, b| a.file == b.file) {
        let Some(text) = super::files::text(&of_file[0].file) else {
            continue;
        };
        let documents = documents(&text);
        for of_document in of_file.chunk_by_mut(|a, b| a.line == b.line) {
            let line = of_document[0].line;
            let document = documents.iter().find(|(at, _)| *at == line);
            let Some(node) = document.and_then(|(_, text)| yaml(text).ok()) else {
                continue;
            };
            for problem in of_document {
                let path = [problem.item.as_str(), problem.field.as_str()];
                let path: Vec<_> = path.into_iter().filter(|part| !part.is_empty()).collect();
                if let Some(Place { line, column }) = node.find(&path.join(".")) {
                    problem.line += u64::from(line).saturating_sub(1);
                    problem.column = column.into();
                }
            }
        }
    }
}
