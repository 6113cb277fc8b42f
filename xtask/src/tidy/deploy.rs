//! What deploy/ sets is there: each environment variable and flag that its files
//! give the agent is one of `docs/configuration.md`, which is made from the code.

/// Line and message of each setting in the file that the reference has not.
pub(super) fn check(reference: &str, file: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    for (line, text) in (1..).zip(file.lines()) {
        let text = text.split(" #").next().unwrap_or(text);
        if text.trim_start().starts_with('#') {
            continue;
        }
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c)) {
            let (is_setting, known) = match word {
                // Of the log, and no flag's.
                "MESH_LOG" => (false, false),
                word if word.starts_with("MESH_") => {
                    (true, reference.contains(&format!("(environment: {word})")))
                }
                // The end of a document is none.
                word if word.starts_with("--") && !word.starts_with("---") => {
                    (true, known_flag(reference, word))
                }
                _ => (false, false),
            };
            if is_setting && !known {
                let message = format!("deploy: docs/configuration.md has no {word}");
                findings.push((line, message));
            }
        }
    }
    findings
}

/// As a whole word, with or without a value.
fn known_flag(reference: &str, flag: &str) -> bool {
    [" ", "`"]
        .iter()
        .any(|end| reference.contains(&format!("`{flag}{end}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str =
        "| `--listen LISTEN` | | Where |\n| `--x X` | | Name (environment: MESH_X) |\n";

    #[test]
    fn what_the_agent_does_not_know_is_a_mistake() {
        let file = "args: [run, --listen=0.0.0.0:1, --nope]\n  - MESH_X=1 # MESH_Z\n  - MESH_Y=2\n# --no\n";
        let found = check(REFERENCE, file);
        assert_eq!(
            found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [1, 3]
        );
        assert!(found[0].1.contains("--nope"), "{found:?}");
    }

    #[test]
    fn a_flag_is_not_known_by_the_beginning_of_another() {
        assert_eq!(check("| `--listen-on X` |", "--listen=1").len(), 1);
    }
}
