//! What others leave on a node and an uninstall goes on past: it ends, and takes the plugin
//! out all the same.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use mesh_cni::PLUGIN;

use super::chain::{self, May};
use super::folder::{MAX_BYTES, MAX_FILES};
use super::samples::KINDNET;
use super::tests::{BIN, CONF, Host, in_file};
use super::uninstall::MAX_CACHED;
use super::*;

const NETWORK: &str = "10-kindnet.conflist";
const CACHE: &str = "var/lib/cni/results";

/// With the plugin in its network.
fn installed() -> Host {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    assert_eq!(host.install(), in_file(NETWORK));
    host
}

/// The second time: no runtime has the old configuration in mind any more.
fn uninstalled(host: &Host) -> Left {
    let first = uninstall(&host.settings, false);
    assert_eq!(first.failures, [], "{first:?}");
    let left = uninstall(&host.settings, false);
    assert_eq!(left.failures, [], "{left:?}");
    left
}

fn is_gone(host: &Host) -> bool {
    !host.root().join(BIN).join(PLUGIN).exists()
}

fn write_bytes(host: &Host, name: &str, bytes: &[u8]) {
    fs::write(host.conf(name), bytes).expect("written");
}

/// No text, and with these words in it.
fn no_text(words: &str, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xff; usize::try_from(length).expect("small")];
    bytes.extend(words.as_bytes());
    bytes
}

/// The agent's own entry as another program took it over, with all that it was in.
fn delegates() -> String {
    let host = installed();
    format!(
        r#"{{"cniVersion":"0.3.1","name":"m","type":"multus","delegates":[{}]}}"#,
        host.read(NETWORK)
    )
}

#[test]
fn files_that_no_runtime_reads_stop_nothing_whatever_is_in_them() {
    let host = installed();
    write_bytes(&host, ".10-kindnet.conflist.swp", &no_text(PLUGIN, 9));
    write_bytes(&host, "backup.tgz", &no_text("", MAX_BYTES));
    fs::write(host.root().join("swp"), no_text(PLUGIN, 9)).expect("written");
    symlink("/swp", host.conf("of-somebody")).expect("linked");
    uninstalled(&host);
    assert!(is_gone(&host));
}

#[test]
fn a_configuration_that_is_no_text_or_too_large_counts_where_it_has_the_plugins_name_alone() {
    let host = installed();
    write_bytes(&host, "20-bytes.conf", &no_text("", 9));
    write_bytes(&host, "30-large.json", &no_text("", MAX_BYTES));
    fs::write(host.root().join("bytes"), no_text("", MAX_BYTES)).expect("written");
    symlink("/bytes", host.conf("40-link.conf")).expect("linked");
    uninstalled(&host);
    assert!(is_gone(&host));
    // Also where it stands across what is read at once.
    for (name, before) in [
        ("20-bytes.conf", (1 << 16) - 4),
        ("30-large.json", MAX_BYTES),
    ] {
        let host = installed();
        write_bytes(&host, name, &no_text(PLUGIN, before));
        let left = uninstall(&host.settings, false);
        assert!(left.failures[0].place.ends_with(name), "{left:?}");
        assert!(!is_gone(&host));
    }
}

#[test]
fn a_link_that_leads_nowhere_names_nothing_where_the_whole_host_is_seen() {
    let mut host = installed();
    host.settings.is_whole = true;
    for (to, link) in [
        ("/gone", "20-a.conf"),
        ("30-b.conf", "30-b.conf"),
        (NETWORK, "40-c.log"),
    ] {
        symlink(to, host.conf(link)).expect("linked");
    }
    symlink(format!("{NETWORK}/x"), host.conf("50-d.json")).expect("linked");
    uninstalled(&host);
    assert!(is_gone(&host));
}

#[test]
fn more_notes_of_a_runtime_than_are_looked_at_are_no_failure_and_of_containerd_nothing() {
    let host = installed();
    let cache = host.root().join(CACHE);
    fs::create_dir_all(&cache).expect("made");
    for at in 0..=MAX_CACHED {
        fs::write(cache.join(at.to_string()), "{}").expect("written");
    }
    let left = uninstalled(&host);
    let [need] = &left.needs[..] else {
        panic!("{left:?}");
    };
    assert!(
        need.to_string()
            .contains(&format!("more than {MAX_CACHED}")),
        "{need}"
    );
    assert!(!is_gone(&host));
    fs::create_dir_all(host.root().join("run/containerd/containerd.sock")).expect("made");
    uninstalled(&host);
    assert!(is_gone(&host));
}

#[test]
fn notes_that_cannot_be_read_are_no_failure_where_the_runtime_is_containerd() {
    let host = installed();
    fs::create_dir_all(host.root().join("var/lib/cni")).expect("made");
    fs::write(host.root().join(CACHE), "no folder").expect("written");
    fs::create_dir_all(host.root().join("run/containerd/containerd.sock")).expect("made");
    uninstalled(&host);
    assert!(is_gone(&host));
}

#[test]
fn a_configuration_that_has_the_plugin_deeper_than_the_agent_puts_it_keeps_the_program() {
    let host = installed();
    host.write("00-multus.conf", &delegates());
    let left = uninstalled(&host);
    assert!(
        left.needs[0].to_string().contains("00-multus.conf"),
        "{left:?}"
    );
    assert_eq!(left.needs.len(), 1, "{left:?}");
    assert!(!is_gone(&host));
    host.write("00-multus.conf", KINDNET);
    uninstalled(&host);
    assert!(is_gone(&host));
    // Also where our own entry stands beside it, and is taken out.
    let list = format!(
        r#"{{"cniVersion":"0.3.1","plugins":[{},{{"type":"{PLUGIN}"}}]}}"#,
        delegates()
    );
    let host = installed();
    host.write(NETWORK, &list);
    let left = uninstalled(&host);
    assert!(!host.is_in(NETWORK));
    assert!(left.needs[0].to_string().contains(NETWORK), "{left:?}");
    assert!(!is_gone(&host));
}

#[test]
fn files_that_are_no_configurations_do_not_count_towards_the_most_that_are_looked_at() {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    for at in 0..=MAX_FILES {
        host.write(&format!("{NETWORK}.{at}.tmp"), "");
    }
    assert_eq!(host.install(), in_file(NETWORK));
    uninstalled(&host);
    assert_eq!(host.read(NETWORK), KINDNET);
    assert!(is_gone(&host));
}

#[test]
fn a_link_or_a_folder_beside_a_list_does_not_keep_our_entry_in_it() {
    let host = installed();
    fs::write(host.root().join("theirs"), "{}").expect("written");
    symlink("/theirs", host.conf("10-kindnet.conf")).expect("linked");
    fs::create_dir(host.conf("10-kindnet.json")).expect("made");
    let left = uninstall(&host.settings, false);
    assert_eq!(
        left.changed,
        [Path::new("/").join(CONF).join(NETWORK)],
        "{left:?}"
    );
    assert_eq!(host.read(NETWORK), KINDNET);
    assert_eq!(left.failures, []);
}

#[test]
fn a_copy_of_our_list_that_is_named_as_a_single_plugin_is_a_list_all_the_same() {
    let host = installed();
    host.write("50-copy.conf", &host.read(NETWORK));
    uninstalled(&host);
    assert_eq!(host.read("50-copy.conf"), KINDNET);
    assert!(is_gone(&host));
}

#[test]
fn a_link_to_a_folder_before_the_network_is_told_and_passed_over() {
    let host = Host::new(&[(NETWORK, KINDNET)]);
    fs::create_dir(host.root().join("folder")).expect("made");
    symlink("/folder", host.conf("00-x.conf")).expect("linked");
    let looked = chain::look(&host.settings, May::Update);
    assert_eq!(looked.standing, in_file(NETWORK));
    assert!(looked.broken[0].contains("00-x.conf"), "{looked:?}");
}
