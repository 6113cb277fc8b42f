use std::fs;

use mesh_cni::PLUGIN;

use super::FILE;
use crate::cni::Standing;
use crate::cni::chain::{self, May};
use crate::cni::samples::{CILIUM, KINDNET};
use crate::cni::tests::{Host, in_file, left};

const NETWORK: &str = "10-kindnet.conflist";

fn host() -> Host {
    let mut host = Host::new(&[(NETWORK, KINDNET)]);
    host.settings.own_file = true;
    host
}

#[test]
fn the_networks_file_stays_as_it_is_and_ours_comes_first() {
    let host = host();
    let look = || chain::look(&host.settings, May::Look).standing;
    assert!(matches!(look(), Standing::Waits(file) if file.ends_with(FILE)));
    assert_eq!(host.install(), in_file(FILE));
    assert_eq!(look(), in_file(FILE));
    assert_eq!(host.read(NETWORK), KINDNET);
    assert_eq!(host.runs(), ["ptp", "portmap", PLUGIN]);
}

/// As its agent does when the node starts, which may be before ours.
#[test]
fn a_network_that_is_written_anew_does_not_take_the_plugin_out() {
    let host = host();
    host.install();
    host.write(NETWORK, CILIUM);
    assert_eq!(host.runs(), ["ptp", "portmap", PLUGIN], "as it was before");
    let looked = chain::look(&host.settings, May::Add);
    assert!(looked.is_changed);
    assert_eq!(looked.standing, in_file(FILE));
    assert_eq!(host.runs(), ["cilium-cni", PLUGIN]);
    assert!(!chain::look(&host.settings, May::Add).is_changed);
}

#[test]
fn the_entry_moves_when_the_setting_changes_and_is_never_in_two_files() {
    let mut host = host();
    host.settings.own_file = false;
    assert_eq!(host.install(), in_file(NETWORK));
    host.settings.own_file = true;
    assert_eq!(host.install(), in_file(FILE));
    assert!(!host.is_in(NETWORK));
    assert_eq!(host.runs(), ["ptp", "portmap", PLUGIN]);
    host.settings.own_file = false;
    assert_eq!(host.install(), in_file(NETWORK));
    assert!(host.is_in(NETWORK) && host.read(FILE).is_empty());
}

#[test]
fn what_another_version_wrote_stays_until_an_agent_starts() {
    let mut host = host();
    host.install();
    let before = host.read(FILE);
    host.settings.entry.mesh_namespace = "other".to_owned();
    assert!(!chain::look(&host.settings, May::Add).is_changed);
    assert_eq!(host.read(FILE), before);
    host.install();
    assert!(host.read(FILE).contains("other"));
}

#[test]
fn where_a_network_comes_before_ours_its_file_has_the_entry() {
    let host = host();
    host.install();
    host.write("00-first.conflist", KINDNET);
    assert_eq!(host.install(), in_file("00-first.conflist"));
    assert!(host.is_in("00-first.conflist") && host.read(FILE).is_empty());
}

/// Some agents of networks remove it first.
#[test]
fn a_network_that_is_half_written_or_away_leaves_ours_as_it_was() {
    let mut host = host();
    host.install();
    host.write(NETWORK, "{");
    chain::look(&host.settings, May::Add);
    assert_eq!(host.runs(), ["ptp", "portmap", PLUGIN]);
    fs::remove_file(host.conf(NETWORK)).expect("removed");
    let looked = chain::look(&host.settings, May::Add);
    assert!(matches!(looked.standing, Standing::NoNetwork(_)));
    assert_eq!(host.runs(), ["ptp", "portmap", PLUGIN]);
    host.settings.own_file = false;
    assert!(chain::look(&host.settings, May::Add).is_changed);
    assert!(host.read(FILE).is_empty());
}

#[test]
fn it_goes_at_an_uninstall() {
    let host = host();
    host.install();
    assert_eq!(left(&host), [FILE]);
    assert_eq!(host.read(NETWORK), KINDNET);
    assert_eq!(host.runs(), ["ptp", "portmap"]);
}
