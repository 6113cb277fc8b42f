//! The tests' Python scripts: no name at the top level of one program is given twice.
//! Python takes the last one without a word, and a program may be made of several
//! files (`concat!` of `include_str!`), each of which other suites use alone.

use std::collections::HashMap;

/// A file's name, and its text.
pub(super) type Script<'a> = (&'a str, &'a str);

/// The files that the sources put together, by their names beside the source.
pub(super) fn put_together(source: &str) -> Vec<Vec<&str>> {
    let programs = source.split("concat!(").skip(1);
    programs
        .map(|text| {
            let text = text.split(';').next().unwrap_or(text);
            let files = text.split("include_str!(\"").skip(1);
            files.filter_map(|file| file.split('"').next()).collect()
        })
        .filter(|files: &Vec<&str>| files.iter().all(|file| file.ends_with(".py")))
        .filter(|files| files.len() > 1)
        .collect()
}

/// File, line and message of each name that a program of these files has already.
pub(super) fn check<'a>(program: &[Script<'a>]) -> Vec<(&'a str, usize, String)> {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    let mut findings = Vec::new();
    for (file, text) in program {
        for (line, text) in (1..).zip(text.lines()) {
            let Some(name) = named(text) else { continue };
            if let Some(first) = seen.insert(name, file) {
                let message = format!("scripts: {first} has a {name} already, which this hides");
                findings.push((*file, line, message));
            }
        }
    }
    findings
}

/// The function or class that a line begins at the top level.
fn named(line: &str) -> Option<&str> {
    let name = line
        .strip_prefix("def ")
        .or_else(|| line.strip_prefix("class "))?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_another_file_of_the_program_is_not_hidden() {
        let first = (
            "a.py",
            "def slow(x):\n    pass\n\nclass Server:\n    def slow(self):\n",
        );
        let second = ("b.py", "def quick():\n    def slow():\n\n\ndef slow():\n");
        let found = check(&[first, second]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "b.py");
        assert_eq!(found[0].1, 5);
        assert!(check(&[first]).is_empty());
    }

    #[test]
    fn programs_of_several_files_are_found() {
        let source = "const A: &str = concat!(include_str!(\"a.py\"), include_str!(\"b.py\"));\n\
                      const B: &str = include_str!(\"c.py\");\nconst C: &str = concat!(\"x\", \"y\");";
        assert_eq!(put_together(source), [["a.py", "b.py"]]);
    }
}
