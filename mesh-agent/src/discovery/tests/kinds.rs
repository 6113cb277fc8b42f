//! What holds of every kind in the table: a new one is held to it, too.

use std::path::Path;

use super::super::documents::parse_file;
use super::super::fuzz::seeds;
use super::super::kinds::{About, KindId};
use super::super::parse;

fn all() -> impl Iterator<Item = (KindId, &'static About)> {
    KindId::ALL.iter().map(|id| (*id, id.about()))
}

fn document(api: &str, kind: &str) -> Vec<u8> {
    let text = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\n");
    text.into_bytes()
}

#[test]
fn each_kind_is_read_in_each_version_that_is_served_and_told_by_its_name() {
    for (id, about) in all() {
        assert!(!about.meaning.is_empty(), "{}", about.name);
        for api in about.api_versions() {
            let (objects, _) = parse(Path::new("a.yaml"), &document(&api, about.name));
            // Beside it may stand what it lacks.
            let mut known = objects.iter().filter(|o| o.kind.id().is_some());
            let object = known.next().expect(about.name);
            assert_eq!(object.kind.id(), Some(id), "{api}");
            assert!(object.name().starts_with(about.name), "{}", object.name());
            assert!(known.next().is_none(), "{objects:?}");
        }
    }
}

#[test]
fn no_two_kinds_have_one_name_and_each_is_written_as_the_api_writes() {
    for (id, about) in all() {
        for (_, other) in all().filter(|(other, _)| *other != id) {
            assert_ne!(about.name, other.name);
            assert_ne!((about.group, about.plural), (other.group, other.plural));
        }
        let lower = about.name.to_ascii_lowercase();
        let stem = &lower[..lower.len() - 1];
        assert!(about.plural.starts_with(stem), "{}", about.plural);
        assert!(!about.versions.is_empty(), "{}", about.name);
    }
}

#[test]
fn a_version_that_is_not_served_is_a_mistake_that_names_those_that_are() {
    for (_, about) in all() {
        let api = format!("{}/v0", about.group);
        let api = api.trim_start_matches('/');
        let parsed = parse_file(Path::new("a.yaml"), &document(api, about.name));
        let told: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
        let served = about.api_versions().next().expect("a version");
        assert!(parsed.problems.iter().any(|p| p.is_mistake()), "{told:?}");
        assert!(told.iter().any(|text| text.contains(&served)), "{told:?}");
        // It may be what it looks like.
        assert!(!parsed.objects.is_empty(), "{}", about.name);
    }
}

/// A kind that no seed has is not fuzzed.
#[test]
fn each_kind_is_in_a_seed_of_the_fuzz_target() {
    for (id, about) in all() {
        let has = |bytes: &[u8]| {
            let parsed = parse_file(Path::new("a.yaml"), bytes);
            let kinds = parsed.objects.iter().map(|object| object.kind.id());
            kinds.into_iter().any(|kind| kind == Some(id))
        };
        let is_seeded = seeds().iter().any(|(_, bytes)| has(bytes));
        assert!(is_seeded, "add one of {} to discovery/fuzz.rs", about.name);
    }
}
