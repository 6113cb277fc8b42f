//! A node's folders as other programs leave, rewrite and move them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_cni::{Entry, PLUGIN};
use tokio_util::sync::CancellationToken;

use super::chain::{self, May};
use super::folder::{CHANGED, Folder};
use super::list::{self, Network};
use super::samples::{CILIUM, KINDNET, OPENSHIFT};
use super::uninstall::leave;
use super::*;
use crate::observe::{AccessLogTarget, Observe};

pub(super) const CONF: &str = "etc/cni/net.d";
pub(super) const BIN: &str = "opt/cni/bin";

pub(super) struct Host {
    dir: tempfile::TempDir,
    pub(super) settings: Settings,
}

impl Host {
    /// With a network, and the programs of all plugins.
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for folder in [CONF, BIN] {
            fs::create_dir_all(dir.path().join(folder)).expect("made");
        }
        for kind in ["ptp", "portmap", "cilium-cni", "openshift-sdn"] {
            fs::write(dir.path().join(BIN).join(kind), "").expect("written");
        }
        let program = dir.path().join("program");
        fs::write(&program, "the plugin").expect("written");
        let settings = Settings {
            host: dir.path().to_owned(),
            is_whole: false,
            conf_dir: None,
            bin_dir: None,
            own_file: false,
            program,
            entry: Entry {
                outside_file: dir.path().join("state/outside.json"),
                ..Entry::default()
            },
        };
        let host = Self { dir, settings };
        for (name, text) in files {
            host.write(name, text);
        }
        host
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn conf(&self, name: &str) -> PathBuf {
        self.dir.path().join(CONF).join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.conf(name), text).expect("written");
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.conf(name)).unwrap_or_default()
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join(BIN).join(PLUGIN)
    }

    pub(super) fn folder(&self) -> Folder {
        Folder::open(&self.dir.path().join(CONF)).expect("a folder")
    }

    pub(super) fn install(&self) -> Standing {
        chain::look(&self.settings, May::Update).standing
    }

    fn all(&self) -> BTreeMap<String, String> {
        let names = self.folder().names().expect("listed").into_iter();
        names.map(|name| (name.clone(), self.read(&name))).collect()
    }

    pub(super) fn is_in(&self, name: &str) -> bool {
        let text = self.read(name);
        Network::read(name, &text).is_ok_and(|network| network.has_ours())
    }

    /// What a runtime would do now: which plugins it would call, all of them there.
    pub(super) fn runs(&self) -> Vec<String> {
        let mut names = self.folder().names().expect("listed").into_iter();
        let first = names.find(|name| list::is_configuration(name));
        let first = first.expect("a configuration");
        let text = self.read(&first);
        let network = Network::read(&first, &text);
        let network = network.unwrap_or_else(|why| panic!("{first}: {why}: {text}"));
        let mut kinds: Vec<String> = network.others().map(str::to_owned).collect();
        if network.has_ours() {
            kinds.push(PLUGIN.to_owned());
        }
        for kind in &kinds {
            assert!(self.dir.path().join(BIN).join(kind).is_file(), "{kind}");
        }
        kinds
    }
}

/// What it was taken out of.
pub(super) fn left(host: &Host) -> Vec<String> {
    let took = leave(&host.folder());
    assert!(took.failed.is_empty(), "{took:?}");
    took.changed
}

pub(super) fn in_file(name: &str) -> Standing {
    Standing::In(Path::new("/").join(CONF).join(name))
}

#[test]
fn the_first_network_gets_the_plugin_once_and_its_file_keeps_mode_and_name() {
    let host = Host::new(&[
        ("10-kindnet.conflist", KINDNET),
        ("99-later.conflist", CILIUM),
        ("calico-kubeconfig", "{}"),
    ]);
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(host.conf("10-kindnet.conflist"), mode).expect("set");
    assert_eq!(host.install(), in_file("10-kindnet.conflist"));
    assert_eq!(host.runs(), ["ptp", "portmap", PLUGIN]);
    assert_eq!(
        fs::read_to_string(host.program()).expect("read"),
        "the plugin"
    );
    let meta = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(meta(host.conf("10-kindnet.conflist")), 0o600);
    assert_eq!(meta(host.program()), 0o755);
    let once = host.all();
    assert_eq!(once.len(), 3, "{:?}", once.keys());
    assert_eq!(host.install(), in_file("10-kindnet.conflist"));
    assert_eq!(host.all(), once, "nothing is left to do");
    assert_eq!(once["99-later.conflist"], CILIUM);
}

#[test]
fn a_node_without_a_network_gets_none_from_us() {
    let host = Host::new(&[]);
    let nothing = || matches!(host.install(), Standing::NoNetwork(_));
    assert!(nothing());
    host.write(
        "99-loopback.conf",
        r#"{"cniVersion":"0.3.1","type":"loopback"}"#,
    );
    assert!(nothing());
    assert_eq!(host.all().len(), 1);
    assert!(
        !host.program().exists(),
        "before there is anything to be in"
    );
    host.write("10-kindnet.conflist", KINDNET);
    assert_eq!(host.install(), in_file("10-kindnet.conflist"));
}

#[test]
fn what_cannot_be_used_or_extended_stays_as_it_is_and_is_told() {
    let newer = KINDNET.replace("0.3.1", "7.0.0");
    let host = Host::new(&[("00-broken.conflist", "{"), ("10-kindnet.conflist", &newer)]);
    let before = host.all();
    let looked = chain::look(&host.settings, May::Update);
    let said = looked.standing.to_string();
    assert!(said.contains("7.0.0"), "{said}");
    assert!(
        looked.broken[0].starts_with("00-broken.conflist: "),
        "{:?}",
        looked.broken
    );
    assert_eq!(host.all(), before);
    // Its plugins' programs are elsewhere: ours would be, too.
    host.write(
        "10-kindnet.conflist",
        &KINDNET.replace("ptp", "unknown-cni"),
    );
    let said = host.install().to_string();
    assert!(said.contains("unknown-cni"), "{said}");
    // No program to install: no configuration names it.
    host.write("10-kindnet.conflist", KINDNET);
    fs::remove_file(&host.settings.program).expect("removed");
    let said = host.install().to_string();
    assert!(said.contains("cannot be copied"), "{said}");
    assert!(!host.is_in("10-kindnet.conflist"));
}

#[test]
fn what_another_program_writes_meanwhile_is_not_lost() {
    let host = Host::new(&[("10-kindnet.conflist", KINDNET)]);
    let folder = host.folder();
    let read = folder.read("10-kindnet.conflist").expect("read");
    let newer = KINDNET.replace("1500", "9000");
    host.write("10-kindnet.conflist", &newer);
    let replaced = folder.replace("10-kindnet.conflist", &read, "{}");
    assert_eq!(replaced.expect_err("refused").kind(), CHANGED);
    assert_eq!(host.read("10-kindnet.conflist"), newer);
    fs::remove_file(host.conf("10-kindnet.conflist")).expect("removed");
    let replaced = folder.replace("10-kindnet.conflist", &read, "{}");
    assert_eq!(replaced.expect_err("refused").kind(), CHANGED);
    assert!(!host.conf("10-kindnet.conflist").exists());
    drop(folder);
    host.write("10-kindnet.conflist", &newer);
    assert_eq!(host.install(), in_file("10-kindnet.conflist"));
    assert!(host.read("10-kindnet.conflist").contains("9000"));
}

/// Ends the work after each number of steps, looks what a runtime would do then, and
/// has it done again in whole.
fn crashed_at_each_step(
    files: &[(&str, &str)],
    prepare: impl Fn(&Host),
    work: impl Fn(&Host, Folder) -> std::io::Result<()>,
    whole: impl Fn(&Host),
    network: &[&str],
) {
    for steps in 0.. {
        let host = Host::new(files);
        prepare(&host);
        let folder = host.folder();
        folder.crash.set(Some(steps));
        let done = work(&host, folder);
        let runs = host.runs();
        let others: Vec<&String> = runs.iter().filter(|kind| *kind != PLUGIN).collect();
        assert_eq!(others, network, "after {steps} steps");
        whole(&host);
        if done.is_ok() {
            assert!(steps >= 2, "{steps} steps are none to crash between");
            return;
        }
    }
}

#[test]
fn a_crash_between_any_two_steps_of_an_install_leaves_a_network_and_is_made_good() {
    for (name, text, list, network) in [
        (
            "10-kindnet.conflist",
            KINDNET,
            "10-kindnet.conflist",
            &["ptp", "portmap"][..],
        ),
        (
            "80-openshift-network.conf",
            OPENSHIFT,
            "80-openshift-network.conflist",
            &["openshift-sdn"][..],
        ),
    ] {
        let work = |host: &Host, folder: Folder| {
            fs::write(host.program(), "the plugin")?;
            chain::put_in(&host.settings, &folder)
        };
        let whole = |host: &Host| {
            assert_eq!(host.install(), in_file(list));
            let names: Vec<String> = host.all().into_keys().collect();
            let ours = names.iter().filter(|n| list::is_configuration(n)).count();
            assert_eq!(ours, 1, "{names:?}");
            assert!(!names.iter().any(|n| n.ends_with("-new")), "{names:?}");
            // And out again, as if it had never been there.
            left(host);
            assert_eq!(
                host.all(),
                BTreeMap::from([(name.to_owned(), text.to_owned())])
            );
        };
        crashed_at_each_step(&[(name, text)], |_| {}, work, whole, network);
    }
}

#[test]
fn a_crash_between_any_two_steps_of_an_uninstall_leaves_a_network_and_is_made_good() {
    for (name, text, network) in [
        ("10-kindnet.conflist", KINDNET, &["ptp", "portmap"][..]),
        (
            "80-openshift-network.conf",
            OPENSHIFT,
            &["openshift-sdn"][..],
        ),
    ] {
        let prepare = |host: &Host| assert!(matches!(host.install(), Standing::In(_)));
        let work = |_: &Host, folder: Folder| {
            let failed = leave(&folder).failed.into_iter().next();
            failed.map_or(Ok(()), |(_, error)| Err(error))
        };
        let whole = |host: &Host| {
            left(host);
            assert_eq!(
                host.all(),
                BTreeMap::from([(name.to_owned(), text.to_owned())])
            );
            assert_eq!(left(host), [""; 0]);
        };
        crashed_at_each_step(&[(name, text)], prepare, work, whole, network);
    }
}

#[test]
fn a_single_plugin_that_is_written_anew_is_taken_into_the_list_again() {
    let host = Host::new(&[("80-openshift-network.conf", OPENSHIFT)]);
    host.install();
    let newer = OPENSHIFT.replace("0.3.1", "0.4.0");
    host.write("80-openshift-network.conf", &newer);
    assert_eq!(host.runs(), ["openshift-sdn"], "the new one comes first");
    assert_eq!(host.install(), in_file("80-openshift-network.conflist"));
    assert_eq!(host.runs(), ["openshift-sdn", PLUGIN]);
    assert!(host.read("80-openshift-network.conflist").contains("0.4.0"));
    left(&host);
    let name = "80-openshift-network.conf".to_owned();
    assert_eq!(host.all(), BTreeMap::from([(name, newer)]));
}

#[test]
fn an_uninstall_leaves_the_files_as_they_were_and_the_program_while_it_may_be_called() {
    let host = Host::new(&[("10-kindnet.conflist", KINDNET)]);
    host.install();
    // What another program put aside, to bring it back when it goes.
    fs::copy(
        host.conf("10-kindnet.conflist"),
        host.conf("10-kindnet.conflist.cilium_bak"),
    )
    .expect("copied");
    host.write("05-cilium.conflist", CILIUM);
    host.install();
    let outside = host.settings.entry.outside_file.clone();
    fs::create_dir_all(outside.parent().expect("a folder")).expect("made");
    fs::write(&outside, "{}").expect("written");

    let left = uninstall(&host.settings, false);
    assert_eq!(left.changed.len(), 3, "{left:?}");
    assert_eq!(host.read("05-cilium.conflist"), CILIUM);
    assert_eq!(host.read("10-kindnet.conflist"), KINDNET);
    assert_eq!(host.read("10-kindnet.conflist.cilium_bak"), KINDNET);
    assert_eq!(host.all().len(), 3);
    assert!(!outside.exists(), "the plugin holds nobody up any more");
    assert_eq!(left.kept, [Path::new("/").join(BIN).join(PLUGIN)]);
    assert!(host.program().exists());

    let cache = host.settings.seen(Path::new("/var/lib/cni/results"));
    fs::create_dir_all(&cache).expect("made");
    let note = r#"{"config":"eyJwbHVnaW5zIjpbeyJ0eXBlIjoibWVzaC1hZ2VudC1jbmkifV19"}"#;
    fs::write(cache.join("pods-1-eth0"), note).expect("written");
    let left = uninstall(&host.settings, false);
    assert_eq!((left.kept.len(), left.changed.len()), (1, 0), "{left:?}");
    assert_eq!(left.needs, [Need::Sandboxes(1)]);
    fs::remove_file(cache.join("pods-1-eth0")).expect("removed");
    let left = uninstall(&host.settings, false);
    assert_eq!((left.kept.len(), left.removed.len()), (0, 1));
    assert!(!host.program().exists());
    assert_eq!(uninstall(&host.settings, false), Left::default());
}

#[test]
fn a_program_that_sandboxes_were_made_with_goes_at_once_where_the_runtime_is_containerd_alone() {
    let host = Host::new(&[("10-kindnet.conflist", KINDNET)]);
    let add = |path: &str, text: &str| {
        let path = host.settings.seen(Path::new(path));
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    };
    let note = r#"{"config":"eyJwbHVnaW5zIjpbeyJ0eXBlIjoibWVzaC1hZ2VudC1jbmkifV19"}"#;
    add("/var/lib/cni/results/pods-1-eth0", note);
    add("/run/containerd/containerd.sock", "");
    add("/run/crio/crio.sock", "");
    host.install();
    let left = uninstall(&host.settings, false);
    assert_eq!((left.changed.len(), left.kept.len()), (1, 1), "{left:?}");
    let left = uninstall(&host.settings, false);
    assert_eq!(
        (&left.needs[..], left.kept.len()),
        (&[Need::Sandboxes(1)][..], 1)
    );
    fs::remove_file(host.settings.seen(Path::new("/run/crio/crio.sock"))).expect("removed");
    let left = uninstall(&host.settings, false);
    assert_eq!((left.kept.len(), left.removed.len()), (0, 1), "{left:?}");
    assert!(!host.program().exists());
}

async fn becomes(what: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(20), wait).await;
    within.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn the_plugin_is_put_back_however_the_file_is_rewritten_or_moved() {
    let host = Host::new(&[]);
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let keeper = Keeper::new(host.settings.clone(), register(&observe));
    let cancel = CancellationToken::new();
    let task = tokio::spawn(keeper.clone().keep(cancel.clone()));
    let none = || matches!(keeper.report().standing, Standing::NoNetwork(_));
    becomes("no network is seen", none).await;
    let later = || {
        [(
            "shop/web".to_owned(),
            Instant::now() + Duration::from_secs(10),
        )]
    };
    assert!(keeper.report().passed_over(&later()).is_empty());

    // Moved into place from another folder, as AWS's does.
    let elsewhere = host.dir.path().join("10-aws.conflist");
    fs::write(&elsewhere, CILIUM).expect("written");
    fs::rename(&elsewhere, host.conf("10-aws.conflist")).expect("moved");
    becomes("moved in", || host.is_in("10-aws.conflist")).await;
    // Written in place.
    host.write("10-aws.conflist", CILIUM);
    becomes("rewritten", || host.is_in("10-aws.conflist")).await;
    // Another network takes its place, and the old one is put aside.
    host.write("05-cilium.conflist", KINDNET);
    fs::rename(
        host.conf("10-aws.conflist"),
        host.conf("10-aws.conflist.cilium_bak"),
    )
    .expect("moved");
    becomes("another file", || host.is_in("05-cilium.conflist")).await;
    // Without the program the runtime could start nothing.
    fs::remove_file(host.program()).expect("removed");
    becomes("the program", || host.program().exists()).await;
    assert_eq!(host.runs(), ["ptp", "portmap", PLUGIN]);
    let reported = || keeper.report().standing == in_file("05-cilium.conflist");
    becomes("reported", reported).await;
    // Who made a pod without it afterwards goes by another file.
    assert_eq!(keeper.report().passed_over(&later()), ["shop/web"]);
    // Another version's entry is not fought over.
    let other = Entry {
        patience_seconds: Some(9),
        ..Entry::default()
    };
    let foreign = Network::read("a.conflist", KINDNET)
        .expect("read")
        .with(&other);
    host.write("05-cilium.conflist", &foreign);
    fs::remove_file(host.program()).expect("removed");
    becomes("looked at", || host.program().exists()).await;
    assert_eq!(host.read("05-cilium.conflist"), foreign);
    cancel.cancel();
    task.await.expect("it ends");
    assert!(
        host.is_in("05-cilium.conflist"),
        "it stays for the next agent"
    );
}
