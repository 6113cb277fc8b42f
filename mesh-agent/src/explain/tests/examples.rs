//! `docs/examples/authorization`: each says in its comments what becomes of requests.

use std::path::{Path, PathBuf};

use super::*;
use crate::discovery;
use crate::model::policy::MeshSettings;
use crate::route::Routes;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/authorization")
}

fn in_force(example: &Path) -> InForce {
    let dir = tempfile::tempdir().expect("a directory");
    for file in [&folder().join("services.yaml"), example] {
        let name = file.file_name().expect("a name");
        std::fs::copy(file, dir.path().join(name)).expect("a copy");
    }
    let update = discovery::check(dir.path(), MeshSettings::default());
    let update = update.expect("a directory");
    let said: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
    assert_eq!(said, Vec::<String>::new(), "{}", example.display());
    InForce {
        routes: Arc::new(Routes::compile(&update.snapshot)),
        snapshot: update.snapshot,
        policy: update.policy,
        ..InForce::default()
    }
}

/// `FROM [METHOD URL [HEADER LINE]]: allowed|refused|depends`
fn question(line: &str) -> Option<(&str, &str)> {
    let (words, said) = line.strip_prefix("# ")?.rsplit_once(": ")?;
    ["allowed", "refused", "depends"]
        .contains(&said)
        .then_some((words, said))
}

#[test]
fn each_example_of_authorization_does_what_it_says() {
    let mut asked = 0;
    let trust_domain = TrustDomain::new("cluster.local").expect("a trust domain");
    for entry in std::fs::read_dir(folder()).expect("the examples") {
        let path = entry.expect("an entry").path();
        if path.ends_with("services.yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a text");
        let published = in_force(&path);
        let questions: Vec<(&str, &str)> = text.lines().filter_map(question).collect();
        assert!(!questions.is_empty(), "{} says nothing", path.display());
        for (words, said) in questions {
            let mut parts = words.splitn(4, ' ');
            let from = parts.next().expect("who asks");
            let (method, url) = (parts.next(), parts.next());
            let headers = parts.next().unwrap_or_default();
            let request = method.zip(url).map(|(method, url)| RequestWords {
                method,
                url,
                headers,
            });
            let words = Words {
                from,
                to: "service/shop/api",
                port: 80,
                request,
                sni: None,
            };
            let answer = offline(&published, &trust_domain, words).expect("an answer");
            let expected = match said {
                "allowed" => Verdict::Allowed,
                "refused" => Verdict::Refused,
                _ => Verdict::NeedsRequest,
            };
            let context = format!("{}: {words:?}: {answer:#?}", path.display());
            assert_eq!(answer.verdict, expected, "{context}");
            asked += 1;
        }
    }
    assert!(asked >= 30, "{asked}");
}
