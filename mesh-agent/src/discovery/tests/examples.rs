//! The examples of `docs/`: each is read as a directory, understood in full, and
//! does what its lines `# > request -> result` say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::check;
use crate::model::http_route::Longest;
use crate::model::policy::MeshSettings;
use crate::model::{
    Edits, HeaderEdit, HeaderLine, Host, HttpVersion, NormalPath, Path as RequestPath, RequestHead,
    ServiceKey, Snapshot,
};
use crate::route::http::{Decision, Forward};
use crate::route::{ConnectionDecision, Routes, status};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/routes")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).expect("an example")
}

/// The configuration of one example beside its Services.
fn configured(name: &str) -> Snapshot {
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["services.yaml", name] {
        std::fs::write(dir.path().join(file), read(file)).expect("written");
    }
    let update = check(dir.path(), MeshSettings::default()).expect("a directory");
    let mistakes: Vec<String> = update.mistakes().map(ToString::to_string).collect();
    assert_eq!(mistakes, [] as [&str; 0], "{name}");
    let snapshot = (*update.snapshot).clone();
    for route in snapshot.routes.iter() {
        let parents = status(&snapshot, route);
        assert!(!parents.is_empty(), "{name}: {}", route.key);
        for condition in parents.iter().flat_map(|parent| &parent.conditions) {
            assert!(condition.holds, "{name}: {}: {condition:?}", route.key);
        }
    }
    snapshot
}

/// One of each hundred numbers.
fn hundred<'r, T>(
    mut decide: impl FnMut(&mut dyn FnMut(u64) -> u64) -> T + 'r,
    say: impl Fn(&T) -> (String, Vec<String>),
) -> String {
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    let mut said: Vec<(String, u32)> = Vec::new();
    for number in 0..100 {
        let mut random = |below: u64| number * below / 100;
        let (what, more) = say(&decide(&mut random));
        *shares.entry(what).or_default() += 1;
        for one in more {
            match said.iter_mut().find(|(other, _)| *other == one) {
                Some((_, count)) => *count += 1,
                None => said.push((one, 1)),
            }
        }
    }
    let share = |name: &str, count: u32| match count {
        100 => name.to_owned(),
        count => format!("{name} {count}%"),
    };
    let shares = shares.iter().map(|(name, count)| share(name, *count));
    // What is said of some requests only is told with no share, but for copies.
    let said = said
        .iter()
        .map(|(text, count)| match text.starts_with("copy") {
            true => share(text, *count),
            false => text.clone(),
        });
    shares.chain(said).collect::<Vec<_>>().join(", ")
}

fn edits(edits: &Edits, of: &str) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(edits.host.iter().map(|host| format!("{of}host {host}")));
    all.extend(edits.target.iter().map(|path| format!("{of}path {path}")));
    all.extend(edits.headers.iter().map(|edit| match edit {
        HeaderEdit::Set { name, value } => format!("{of}set {name}: {value}"),
        HeaderEdit::Add { name, value } => format!("{of}add {name}: {value}"),
        HeaderEdit::Remove { name } => format!("{of}remove {name}"),
    }));
    all
}

fn forwarded(forward: &Forward<'_>) -> (String, Vec<String>) {
    let mut all = edits(&forward.request, "");
    all.extend(edits(&forward.response, "answer "));
    let mirrors = forward.mirrors.iter();
    all.extend(mirrors.map(|mirror| format!("copy to {}", mirror.to.service.name)));
    let seconds = |what: &str, time: Option<std::time::Duration>| {
        time.map(|time| format!("{what} {}s", time.as_secs()))
    };
    all.extend(seconds(
        "within",
        forward.timeouts.request.and_then(Longest::time),
    ));
    all.extend(seconds(
        "each attempt within",
        forward.timeouts.backend_request,
    ));
    if let Some(retry) = forward.retry {
        let codes: Vec<String> = retry.codes.iter().map(u16::to_string).collect();
        let attempts = retry.attempts.unwrap_or_default();
        all.push(format!("{attempts} retries on {}", codes.join(" ")));
    }
    all.extend(forward.session.as_ref().map(|session| session.shown()));
    (forward.backend.service.name.to_string(), all)
}

fn request(routes: &Routes, port: u16, caller: &str, words: &[&str]) -> String {
    let [method, target, headers @ ..] = words else {
        panic!("{words:?}");
    };
    let lines = headers
        .iter()
        .map(|word| word.split_once('=').expect("name=value"));
    let lines: Vec<HeaderLine<'_>> = lines
        .map(|(name, value)| HeaderLine {
            name,
            value: value.as_bytes(),
        })
        .collect();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.as_bytes())),
        None => (*target, None),
    };
    let head = RequestHead {
        version: HttpVersion::Http11,
        method,
        target: target.as_bytes(),
        path: RequestPath::Normal(NormalPath {
            normal: path.into(),
            decoded: path.as_bytes().into(),
            without_parameters: None,
        }),
        query,
        host: Some(Host {
            name: "web".into(),
            port: None,
        }),
        headers: &lines,
    };
    let Some(routes) = routes.of(&ServiceKey::new("shop", "web"), port) else {
        return "implicit".to_owned();
    };
    hundred(
        |random| routes.decide(&head, caller, random),
        |decision| match decision {
            Decision::Implicit => ("implicit".to_owned(), Vec::new()),
            Decision::Forward(forward) => forwarded(forward),
            Decision::Respond(answer) => {
                let mut headers = answer.headers.iter();
                let location = headers.find(|(name, _)| *name == "location");
                let location = location.map(|(_, to)| format!(" {to}"));
                (
                    format!("{}{}", answer.status, location.unwrap_or_default()),
                    Vec::new(),
                )
            }
        },
    )
}

fn connect(routes: &Routes, port: u16, sni: Option<&str>) -> String {
    let routes = routes
        .of(&ServiceKey::new("shop", "web"), port)
        .expect("routes");
    hundred(
        |random| routes.decide_connection(sni, "shop", random),
        |decision| {
            let what = match decision {
                ConnectionDecision::Implicit => "implicit".to_owned(),
                ConnectionDecision::Forward { backend, .. } => backend.service.name.to_string(),
                ConnectionDecision::Refused(why) => format!("{why:?}"),
            };
            (what, Vec::new())
        },
    )
}

/// `[from NAMESPACE:] [at PORT:] METHOD TARGET [name=value]…`, or `connect PORT [NAME]`.
fn answer(routes: &Routes, question: &str) -> String {
    let words: Vec<&str> = question.split(' ').collect();
    let (mut port, mut caller, mut rest) = (80, "shop", &words[..]);
    loop {
        rest = match rest {
            ["from", namespace, more @ ..] => {
                caller = namespace.trim_end_matches(':');
                more
            }
            ["at", number, more @ ..] => {
                port = number.trim_end_matches(':').parse().expect("a port");
                more
            }
            ["connect", number, sni @ ..] => {
                let port = number.parse().expect("a port");
                return connect(routes, port, sni.first().copied());
            }
            words => return request(routes, port, caller, words),
        };
    }
}

#[test]
fn each_example_does_what_it_says() {
    let files = std::fs::read_dir(folder()).expect("the folder");
    let names = files.map(|file| file.expect("a file").file_name().into_string());
    let mut names: Vec<String> = names.map(|name| name.expect("a name")).collect();
    names.sort();
    let mut count = 0;
    for name in names.iter().filter(|name| *name != "services.yaml") {
        let snapshot = configured(name);
        let routes = Routes::compile(&snapshot);
        let text = read(name);
        let said: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# > ")?.split_once(" -> "))
            .collect();
        assert!(!said.is_empty(), "{name} says nothing");
        for (question, expected) in said {
            assert_eq!(answer(&routes, question), expected, "{name}: {question}");
            count += 1;
        }
    }
    assert!(
        names.len() >= 17 && count >= 40,
        "{count} of {}",
        names.len()
    );
}

/// What is named in `docs/routes.md` is there, and what is there is named.
#[test]
fn the_page_names_each_example() {
    let page = folder().join("../../routes.md");
    let page = std::fs::read_to_string(page).expect("docs/routes.md");
    for file in std::fs::read_dir(folder()).expect("the folder") {
        let name = file.expect("a file").file_name();
        let name = name.to_string_lossy();
        assert!(page.contains(&format!("examples/routes/{name}")), "{name}");
    }
}
