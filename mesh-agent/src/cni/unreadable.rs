//! Files of a node that cannot be read, written or removed: never taken for ones that do not
//! name the plugin.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use mesh_cni::PLUGIN;

use super::chain::{self, May};
use super::folder::{MAX_BYTES, MAX_FILES};
use super::samples::KINDNET;
use super::tests::{BIN, CONF, Host, in_file};
use super::*;

const NETWORK: &str = "10-kindnet.conflist";
const OWN: &str = "00-mesh-agent.conflist";

/// A network of so many bytes.
fn of(bytes: u64) -> String {
    let space = usize::try_from(bytes).expect("small") - KINDNET.len();
    format!("{KINDNET}{}", " ".repeat(space))
}

fn program(host: &Host) -> PathBuf {
    host.root().join(BIN).join(PLUGIN)
}

/// Whose place has the name, after what was done where that is possible.
fn failed_at(left: &Left, name: &str) -> Failure {
    let mut all = left.failures.iter();
    let found = all.find(|failure| failure.place.ends_with(name));
    found.unwrap_or_else(|| panic!("{name}: {left:?}")).clone()
}

#[test]
fn what_would_not_be_read_again_is_not_written() {
    let host = Host::new(&[(NETWORK, &of(MAX_BYTES))]);
    let said = host.install().to_string();
    let sizes = [MAX_BYTES.to_string(), NETWORK.to_owned()];
    assert!(sizes.iter().all(|word| said.contains(word)), "{said}");
    assert!(said.contains("would have"), "{said}");
    assert_eq!(host.read(NETWORK), of(MAX_BYTES));
    let mut own = Host::new(&[(NETWORK, &of(MAX_BYTES))]);
    own.settings.own_file = true;
    let said = own.install().to_string();
    assert!(said.contains(OWN) && said.contains("would have"), "{said}");
    assert!(own.read(OWN).is_empty());
    // Its own entry is all that was too much.
    let room = Host::new(&[(NETWORK, &of(MAX_BYTES - 4096))]);
    assert_eq!(room.install(), in_file(NETWORK));
    assert!(room.is_in(NETWORK));
}

#[test]
fn a_file_that_is_too_large_keeps_the_program_that_it_may_name() {
    let host = Host::new(&[(NETWORK, KINDNET), ("20-other.conflist", KINDNET)]);
    host.install();
    let text = format!("{}{}", host.read(NETWORK), " ".repeat(1 << 20));
    host.write(NETWORK, &text);
    host.write(
        "20-other.conflist",
        &host.read(NETWORK)[..text.len() - (1 << 20)],
    );
    for also_program in [false, true] {
        let left = uninstall(&host.settings, also_program);
        let failure = failed_at(&left, NETWORK);
        assert!(
            failure.to_string().contains(&text.len().to_string()),
            "{failure}"
        );
        assert!(left.removed.is_empty(), "{left:?}");
        assert!(left.needs.contains(&Need::Unsure), "{left:?}");
        assert!(program(&host).exists());
        assert_eq!(
            host.read("20-other.conflist"),
            KINDNET,
            "the others are handled"
        );
    }
    host.write(NETWORK, KINDNET);
    let left = uninstall(&host.settings, false);
    assert_eq!(
        (left.removed.len(), left.failures.len()),
        (1, 0),
        "{left:?}"
    );
}

#[test]
fn a_network_that_cannot_be_read_is_not_passed_over_for_the_next_one() {
    let host = Host::new(&[
        (NETWORK, &of(MAX_BYTES + 1)),
        ("20-other.conflist", KINDNET),
    ]);
    let said = host.install().to_string();
    assert!(said.contains(NETWORK), "{said}");
    assert_eq!(host.read("20-other.conflist"), KINDNET);
}

#[test]
fn folders_in_the_place_of_our_files_stop_nothing_else_and_are_told() {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    let unfinished = ".20-other.conflist.mesh-agent-new";
    for name in [OWN, unfinished] {
        fs::create_dir(host.conf(name)).expect("made");
    }
    let looked = chain::look(&host.settings, May::Update);
    assert_eq!(looked.standing, in_file(NETWORK));
    for name in [OWN, unfinished] {
        let is_told = looked.broken.iter().any(|said| said.contains(name));
        assert!(is_told, "{looked:?}");
    }
    let left = uninstall(&host.settings, false);
    for name in [OWN, unfinished] {
        failed_at(&left, name);
    }
    assert_eq!(left.changed, [Path::new("/").join(CONF).join(NETWORK)]);
    assert_eq!(host.read(NETWORK), KINDNET);
}

#[test]
fn a_folder_in_the_place_of_the_file_that_is_to_be_written_is_named() {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    let unfinished = format!(".{NETWORK}.mesh-agent-new");
    fs::create_dir(host.conf(&unfinished)).expect("made");
    let said = host.install().to_string();
    assert!(said.contains(&unfinished), "{said}");
    assert_eq!(host.read(NETWORK), KINDNET);
}

#[test]
fn other_programs_folders_and_files_are_no_failure() {
    let host = Host::new(&[(NETWORK, KINDNET), ("calico-kubeconfig", "kind: Config")]);
    fs::create_dir(host.conf("multus.d")).expect("made");
    symlink("nowhere", host.conf("of-somebody")).expect("linked");
    host.install();
    let left = uninstall(&host.settings, false);
    assert!(left.failures.is_empty(), "{left:?}");
    assert_eq!(left.needs, [Need::JustChanged]);
    assert_eq!(uninstall(&host.settings, false).removed.len(), 1);
}

#[test]
fn a_configuration_that_is_not_understood_and_names_the_plugin_keeps_the_program() {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    host.install();
    let text = host.read(NETWORK);
    host.write(NETWORK, &text[..text.trim_end().len() - 1]);
    let left = uninstall(&host.settings, false);
    let said = failed_at(&left, NETWORK).to_string();
    assert!(said.contains(PLUGIN), "{said}");
    assert!(program(&host).exists());
}

#[test]
fn a_link_whose_end_cannot_be_read_keeps_the_program() {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    host.install();
    host.write(NETWORK, KINDNET);
    symlink("/not/mounted", host.conf("05-link.conflist")).expect("linked");
    let left = uninstall(&host.settings, false);
    failed_at(&left, "05-link.conflist");
    assert!(program(&host).exists());
}

#[test]
fn a_folder_with_more_configurations_than_are_looked_at_keeps_the_program() {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    host.install();
    for at in 0..MAX_FILES {
        host.write(&format!("{at}.conf"), "");
    }
    let left = uninstall(&host.settings, false);
    failed_at(&left, CONF);
    assert!(program(&host).exists());
    assert!(matches!(host.install(), Standing::Failed { .. }));
}

#[test]
fn a_host_that_is_not_there_is_named() {
    let mut host = Host::new(&[]);
    host.settings.host = host.root().join("none");
    failed_at(&uninstall(&host.settings, false), "none");
    let said = host.install().to_string();
    assert!(said.contains("none"), "{said}");
}

#[test]
fn notes_of_the_runtime_that_cannot_be_read_keep_the_program_and_are_named() {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    host.install();
    host.write(NETWORK, KINDNET);
    let cache = host.root().join("var/lib/cni");
    fs::create_dir_all(&cache).expect("made");
    fs::write(cache.join("results"), "no folder").expect("written");
    let left = uninstall(&host.settings, false);
    failed_at(&left, "results");
    assert!(program(&host).exists());
    assert!(
        !left
            .needs
            .iter()
            .any(|need| need.to_string().contains("0 "))
    );
}
