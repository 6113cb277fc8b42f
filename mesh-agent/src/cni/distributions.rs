//! Nodes as distributions of Kubernetes lay them out.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use mesh_cni::PLUGIN;

use super::chain::{self, May};
use super::folder::Folder;
use super::samples::{FLANNEL, KINDNET};
use super::tests::{BIN, CONF, Host, in_file};
use super::*;

const K3S: &str = "var/lib/rancher/k3s";

/// The plugins of a network, as empty programs.
fn fill(dir: &Path, kinds: &[&str]) {
    fs::create_dir_all(dir).expect("made");
    for kind in kinds {
        fs::write(dir.join(kind), "").expect("written");
    }
}

/// As k3s lays itself out: one folder of programs for each version, and links to it that
/// begin at the host's root.
fn k3s() -> Host {
    let host = Host::new(&[]);
    let at = |path: &str| host.root().join(K3S).join(path);
    fill(&at("data/0a1b/bin"), &["cni"]);
    fs::create_dir_all(at("data/cni")).expect("made");
    fs::create_dir_all(at("agent/etc/cni/net.d")).expect("made");
    for kind in ["flannel", "portmap"] {
        let program = format!("/{K3S}/data/0a1b/bin/{kind}");
        symlink("cni", at(&format!("data/0a1b/bin/{kind}"))).expect("linked");
        symlink(program, at(&format!("data/cni/{kind}"))).expect("linked");
    }
    symlink(format!("/{K3S}/data/0a1b"), at("data/current")).expect("linked");
    fs::write(at("agent/etc/cni/net.d/10-flannel.conflist"), FLANNEL).expect("written");
    host
}

#[test]
fn plugins_behind_links_that_begin_at_the_hosts_root_are_found_below_it() {
    let host = k3s();
    let file = Path::new("/").join(K3S);
    let file = file.join("agent/etc/cni/net.d/10-flannel.conflist");
    assert_eq!(host.install(), Standing::In(file.clone()));
    let at = |path: &str| host.root().join(K3S).join(path).join(PLUGIN);
    let programs = [at("data/cni"), at("data/0a1b/bin")];
    for program in &programs {
        let text = fs::read_to_string(program);
        assert_eq!(text.expect("there"), "the plugin", "{}", program.display());
    }
    assert_eq!(standing(&host.settings), Some(Standing::In(file)));
    // Twice: the first one leaves the program to who has not read the change yet.
    for _ in 0..2 {
        uninstall(&host.settings, false);
    }
    for program in &programs {
        assert!(!program.exists(), "{}", program.display());
    }
}

#[test]
fn a_link_that_leads_nowhere_seen_is_a_plugin_and_one_in_a_circle_is_none() {
    let host = k3s();
    let data = host.root().join(K3S).join("data");
    // The folder of links alone is mounted.
    fs::remove_dir_all(data.join("0a1b")).expect("removed");
    assert!(matches!(host.install(), Standing::In(_)));
    assert!(data.join("cni").join(PLUGIN).exists());
    fs::remove_file(data.join("cni/flannel")).expect("removed");
    symlink("flannel", data.join("cni/flannel")).expect("linked");
    let said = host.install().to_string();
    assert!(said.contains("are not in"), "{said}");
}

#[test]
fn a_folder_of_plugins_that_is_not_known_is_asked_for_by_the_flags_name() {
    let host = Host::new(&[("10-kindnet.conflist", &KINDNET.replace("ptp", "else-cni"))]);
    let said = host.install().to_string();
    for word in [
        "else-cni",
        "/opt/cni/bin",
        "--cni-bin-dir",
        "MESH_CNI_BIN_DIR",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn the_program_goes_to_every_folder_that_has_the_plugins_of_the_network() {
    let host = Host::new(&[("10-kindnet.conflist", KINDNET)]);
    let at = |dir: &str| host.root().join(dir);
    fill(&at("usr/libexec/cni"), &["ptp", "portmap"]);
    fill(&at("usr/lib/cni"), &["ptp"]);
    assert_eq!(host.install(), in_file("10-kindnet.conflist"));
    let program = |dir: &str| at(dir).join(PLUGIN);
    assert!(program(BIN).exists() && program("usr/libexec/cni").exists());
    assert!(!program("usr/lib/cni").exists(), "no runtime looks there");
    // Who of the two is asked by the runtime is not known.
    fs::remove_file(program(BIN)).expect("removed");
    let said = chain::look(&host.settings, May::Look).standing.to_string();
    assert!(said.contains("/opt/cni/bin"), "{said}");
    chain::look(&host.settings, May::Add);
    assert!(program(BIN).exists());
}

#[test]
fn a_link_that_the_runtime_takes_for_the_network_is_told_and_no_other_file_is_changed() {
    let host = Host::new(&[("20-kindnet.conflist", KINDNET)]);
    fs::create_dir_all(host.root().join("var/net")).expect("made");
    let target = host.root().join("var/net/ours.conflist");
    fs::write(&target, KINDNET).expect("written");
    let link = host.conf("10-a.conflist");
    symlink("/var/net/ours.conflist", &link).expect("linked");
    let is_refused = || {
        for standing in [host.install(), standing(&host.settings).expect("one")] {
            let said = standing.to_string();
            assert!(matches!(standing, Standing::Failed { .. }), "{said}");
            assert!(said.contains("10-a.conflist"), "{said}");
            assert!(said.contains("/var/net/ours.conflist"), "{said}");
        }
        assert_eq!(host.read("20-kindnet.conflist"), KINDNET);
    };
    is_refused();
    assert_eq!(fs::read_to_string(&target).expect("read"), KINDNET);
    // What it leads to may be there for the runtime.
    fs::remove_file(&target).expect("removed");
    is_refused();
    // No network at all: the next file is the node's.
    fs::write(
        &target,
        r#"{"cniVersion":"0.3.1","plugins":[{"type":"loopback"}]}"#,
    )
    .expect("written");
    assert_eq!(host.install(), in_file("20-kindnet.conflist"));
    fs::write(&target, "{").expect("written");
    let looked = chain::look(&host.settings, May::Add);
    assert_eq!(looked.standing, in_file("20-kindnet.conflist"));
    assert!(looked.broken[0].starts_with("10-a.conflist"), "{looked:?}");
}

#[test]
fn a_file_of_another_owner_is_changed_by_who_may_not_give_it_back_to_him() {
    const OTHER: u32 = 12_345;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let host = Host::new(&[("10-kindnet.conflist", KINDNET)]);
    let file = host.conf("10-kindnet.conflist");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("set");
    let folder = host.root().join(CONF);
    for dir in folder
        .ancestors()
        .take_while(|dir| dir.starts_with(host.root()))
    {
        chown(dir, Some(OTHER), Some(OTHER)).expect("given");
    }
    // Of the thread alone: it is not root for files, as without the capabilities.
    let changed = std::thread::spawn(move || {
        let open = Folder::open(&folder).expect("a folder");
        let name = "10-kindnet.conflist";
        let before = open.read(name).expect("read");
        nix::unistd::setfsuid(OTHER.into());
        open.replace(name, &before, "{}")
            .map_err(|error| error.to_string())
    });
    assert_eq!(changed.join().expect("no panic"), Ok(()));
    assert_eq!(fs::read_to_string(&file).expect("read"), "{}");
    let meta = fs::metadata(&file).expect("there");
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o644, OTHER));
}
