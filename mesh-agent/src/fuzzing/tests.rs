mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use super::mutate::Mutator;
use super::{
    CERTIFICATE, CONFIG, FRAMES, HELLO, HTTP_REQUEST, HTTP_RESPONSE, HTTP_TARGET, HTTP2_BLOCKS,
    HTTP2_FRAMES, HTTP2_HEAD, IDENTITY, RECORDS, REQUEST, ROUTED, SESSION, SHARED, SNIFF, SPOKEN,
    TARGETS, TRUST, Target, routed,
};
use crate::{ca, detect, discovery, http, route, tls, tunnel};

/// All corpora together, and one file.
const MAX_CORPORA: usize = 300 * 1024;
const MAX_FILE: usize = 16 * 1024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn corpus(target: Target) -> Vec<Vec<u8>> {
    let dir = fuzz().join("corpus").join(target.name);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| fs::read(file).expect("a file"))
        .collect()
}

fn run(target: Target, input: &[u8]) {
    if catch_unwind(|| (target.body)(input)).is_err() {
        let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
        panic!("{}: the input {hex}", target.name);
    }
}

/// The committed inputs, then `mutations` of them.
fn replay(target: Target, mutations: usize) {
    let corpus = corpus(target);
    assert!(corpus.len() >= 3, "{} has a corpus", target.name);
    run(target, &[]);
    for input in &corpus {
        run(target, input);
    }
    let mut mutator = Mutator::new(20);
    for _ in 0..mutations {
        run(target, &mutator.next(&corpus));
    }
}

#[test]
fn frames_of_a_peer_never_break_the_states_of_a_stream() {
    replay(FRAMES, 60_000);
}

#[test]
fn frames_of_a_peer_never_mix_channels() {
    replay(SHARED, 40_000);
}

#[test]
fn no_changed_record_is_taken_and_every_good_one_is() {
    replay(RECORDS, 20_000);
}

#[test]
fn only_certificates_that_the_root_signed_are_believed() {
    replay(CERTIFICATE, 8_000);
}

#[test]
fn no_bytes_as_roots_or_revocations_do_harm() {
    replay(TRUST, 4_000);
}

#[test]
fn an_identity_is_made_of_its_parts() {
    replay(IDENTITY, 60_000);
}

#[test]
fn no_bytes_as_a_certificate_request_do_harm() {
    replay(REQUEST, 8_000);
}

#[test]
fn no_bytes_make_the_look_at_a_hello_change_its_mind() {
    replay(HELLO, 6_000);
}

#[test]
fn no_bytes_make_the_look_for_http_change_its_mind() {
    replay(SPOKEN, 20_000);
}

#[test]
fn no_first_bytes_are_waited_for_without_end() {
    replay(SNIFF, 20_000);
}

#[test]
fn no_bytes_in_a_configuration_file_lift_a_deny() {
    replay(CONFIG, 2_000);
}

#[test]
fn an_application_never_reads_another_request_than_was_seen() {
    replay(HTTP_REQUEST, 4_000);
}

#[test]
fn a_client_never_reads_another_answer_than_was_seen() {
    replay(HTTP_RESPONSE, 20_000);
}

#[test]
fn a_normal_form_has_one_meaning() {
    replay(HTTP_TARGET, 60_000);
}

#[test]
fn only_empty_frames_are_taken_out_however_a_server_sends_them() {
    replay(HTTP2_FRAMES, 40_000);
}

#[test]
fn a_head_of_http2_has_one_meaning_also_on_http1() {
    replay(HTTP2_HEAD, 40_000);
}

#[test]
fn lines_of_a_block_are_counted_as_h2_reads_them_however_it_comes() {
    replay(HTTP2_BLOCKS, 40_000);
}

#[test]
fn what_a_rule_makes_of_a_request_is_read_as_the_rule_says() {
    replay(ROUTED, 40_000);
}

#[test]
fn no_bytes_as_a_session_outlive_it() {
    replay(SESSION, 40_000);
}

#[test]
fn every_target_has_its_program_and_a_small_corpus() {
    let names = |dir: &str| -> Vec<String> {
        let dir = fs::read_dir(fuzz().join(dir)).expect("the folder");
        let stem = |p: PathBuf| p.file_stem().map(|s| s.to_string_lossy().into_owned());
        let mut names: Vec<String> = dir
            .filter_map(|entry| stem(entry.expect("an entry").path()))
            .collect();
        names.sort();
        names
    };
    let mut targets: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    targets.sort_unstable();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let sizes: Vec<usize> = TARGETS
        .iter()
        .flat_map(|t| corpus(*t))
        .map(|f| f.len())
        .collect();
    assert!(sizes.iter().all(|size| *size <= MAX_FILE), "{sizes:?}");
    assert!(sizes.iter().sum::<usize>() <= MAX_CORPORA);
}

#[test]
#[should_panic(expected = "for the test: the input 2a")]
fn an_input_that_fails_is_told() {
    let body = |bytes: &[u8]| assert_ne!(bytes, [42]);
    let target = super::target("for the test", body);
    run(target, &[41]);
    run(target, &[42]);
}

type Seeds = Vec<(String, Vec<u8>)>;

fn named<N: Into<String>>(seeds: impl IntoIterator<Item = (N, Vec<u8>)>) -> Seeds {
    let named = |(name, bytes): (N, Vec<u8>)| (name.into(), bytes);
    seeds.into_iter().map(named).collect()
}

/// Writes the seeds anew; keys and signatures are others each time.
#[test]
#[ignore = "writes fuzz/corpus: see docs/development.md"]
fn write_seeds() {
    let (root, certificates) = tls::fuzz::certificate_seeds();
    fs::write(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/fuzz-root.der"),
        &root,
    )
    .expect("write");
    let hellos = detect::fuzz::seeds();
    let all: BTreeMap<&str, Seeds> = [
        (FRAMES.name, named(tunnel::fuzz::seeds())),
        (SHARED.name, named(tunnel::fuzz_shared::seeds())),
        (RECORDS.name, named(tls::fuzz::record_seeds())),
        (TRUST.name, named(tls::fuzz::trust_seeds(&root))),
        (CERTIFICATE.name, named(certificates)),
        (IDENTITY.name, named(tls::fuzz::identity_seeds())),
        (REQUEST.name, named(ca::request_seeds())),
        (SNIFF.name, named(hellos.clone())),
        (HELLO.name, named(hellos)),
        (SPOKEN.name, named(detect::fuzz::requests())),
        (CONFIG.name, named(discovery::fuzz::seeds())),
        (HTTP_REQUEST.name, named(http::fuzz::request_seeds())),
        (HTTP_RESPONSE.name, named(http::fuzz::response_seeds())),
        (HTTP_TARGET.name, named(http::fuzz::target_seeds())),
        (HTTP2_FRAMES.name, named(http::h2::fuzz::frame_seeds())),
        (HTTP2_HEAD.name, named(http::h2::fuzz::head_seeds())),
        (HTTP2_BLOCKS.name, named(http::h2::fuzz::block_seeds())),
        (ROUTED.name, named(routed::seeds())),
        (SESSION.name, named(route::http::fuzz_session::seeds())),
    ]
    .into();
    for (target, seeds) in all {
        let dir = fuzz().join("corpus").join(target);
        fs::create_dir_all(&dir).expect("a folder");
        for (name, bytes) in seeds {
            let name: String = name
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .collect();
            fs::write(dir.join(name), bytes).expect("write");
        }
    }
}
