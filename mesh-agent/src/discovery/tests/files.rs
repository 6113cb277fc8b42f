mod in_place;

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

use super::super::files::GRACE;
use super::super::watcher::Told;
use super::super::{Directory, Error, Update};
use super::SHOP;
use crate::model::RefuseReason;
use crate::model::policy::{Action, MeshSettings, PeerMode};
use crate::policy::Here;
use tokio::sync::watch;

struct Fixture {
    root: tempfile::TempDir,
    directory: Directory,
    updates: watch::Receiver<Update>,
    now: Instant,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(root.path().join(name), text).expect("write");
        }
        Self::start(root)
    }

    fn start(root: tempfile::TempDir) -> Self {
        let (directory, updates) = Directory::start(
            root.path().to_owned(),
            MeshSettings::default(),
            Here::default(),
        )
        .expect("load");
        Self {
            root,
            directory,
            updates,
            now: Instant::now(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Another file in its place.
    fn write(&mut self, name: &str, text: impl AsRef<[u8]>) -> Update {
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).expect("write");
        std::fs::rename(new, self.path(name)).expect("rename");
        self.load()
    }

    fn write_in_place(&mut self, name: &str, text: impl AsRef<[u8]>) -> Update {
        std::fs::write(self.path(name), text).expect("write");
        self.load()
    }

    fn remove(&mut self, name: &str) -> Update {
        std::fs::remove_file(self.path(name)).expect("remove");
        self.load()
    }

    fn load(&mut self) -> Update {
        self.directory.load(self.now);
        self.updates.borrow().clone()
    }

    fn look_at(&mut self, names: &[&str]) -> Update {
        let names = names.iter().map(std::ffi::OsString::from).collect();
        self.directory.look(&Told::Names(names), self.now);
        self.updates.borrow().clone()
    }

    fn after_grace(&mut self) -> Update {
        self.now += GRACE;
        self.load()
    }
}

fn messages(update: &Update) -> Vec<String> {
    update.problems.iter().map(ToString::to_string).collect()
}

fn policy(name: &str, action: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\n\
         spec: {{action: {action}, rules: [{{to: [{{operation: {{ports: [\"1\"]}}}}]}}]}}\n"
    )
}

/// Name, does it deny, has it rules.
fn policies(update: &Update) -> Vec<(&str, bool, bool)> {
    let policies = update.snapshot.policies.iter();
    policies
        .map(|p| {
            let deny = p.action == Action::Deny;
            (p.name.as_str(), deny, !p.rules.is_empty())
        })
        .collect()
}

#[test]
fn a_file_that_breaks_keeps_what_it_said() {
    let mut f = Fixture::new(&[("shop.yaml", SHOP)]);
    assert_eq!(f.load().snapshot.generation, 1);
    let update = f.write("shop.yaml", SHOP.replace("kind: Service", "kind: ["));
    assert_eq!(update.snapshot.services.len(), 1);
    assert_eq!(update.snapshot.workloads.len(), 1);
    assert!(update.snapshot.hides_pods, "it may say more now");
    assert_eq!(update.problems.len(), 1, "{:?}", update.problems);
    f.remove("shop.yaml");
    let update = f.after_grace();
    assert_eq!(update.snapshot.services.len(), 0);
    assert!(!update.snapshot.hides_pods);
    assert_eq!(messages(&update), Vec::<String>::new());
}

#[test]
fn a_look_at_the_names_that_were_told_is_as_good_as_one_at_everything() {
    let mut f = Fixture::new(&[("a.yaml", &policy("a", "DENY"))]);
    f.load();
    let known = |update: &Update| {
        let names = policies(update)
            .into_iter()
            .map(|(name, ..)| name.to_owned());
        names.collect::<Vec<_>>()
    };
    // What is no configuration, and what is not there at all.
    std::fs::write(f.path("new"), policy("b", "DENY")).expect("write");
    assert_eq!(known(&f.look_at(&["new", "never.yaml"])), ["a"]);
    std::fs::rename(f.path("new"), f.path("b.yaml")).expect("renamed");
    assert_eq!(known(&f.look_at(&["new", "b.yaml"])), ["a", "b"]);
    // What a link leads to has another name, and none that is told.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let target = elsewhere.path().join("c");
    std::fs::write(&target, policy("c", "DENY")).expect("write");
    symlink(&target, f.path("c.yaml")).expect("a link");
    assert_eq!(known(&f.look_at(&["c.yaml"])), ["a", "b", "c"]);
    let new = elsewhere.path().join("d");
    std::fs::write(&new, policy("d", "DENY")).expect("write");
    std::fs::rename(new, &target).expect("renamed");
    assert_eq!(known(&f.look_at(&[])), ["a", "b", "d"]);
    // One that goes is away for a moment first.
    std::fs::remove_file(f.path("b.yaml")).expect("remove");
    assert_eq!(known(&f.look_at(&["b.yaml"])), ["a", "b", "d"]);
    f.now += GRACE;
    assert_eq!(known(&f.look_at(&[])), ["a", "d"]);
    // What is taken over is what a look at everything gives.
    let generation = f.load().snapshot.generation;
    assert_eq!(f.load().snapshot.generation, generation);
    // A directory that cannot be read is told as ever, and looked at as a whole next.
    let (dir, away) = (f.root.path().to_owned(), elsewhere.path().join("away"));
    std::fs::rename(&dir, &away).expect("moved");
    assert_eq!(f.load().mistakes().count(), 1);
    std::fs::write(away.join("e.yaml"), policy("e", "DENY")).expect("write");
    std::fs::rename(&away, &dir).expect("moved back");
    assert_eq!(known(&f.look_at(&[])), ["a", "d", "e"]);
}

/// Names of what the snapshot has, and how many mistakes are told.
fn left(update: &Update) -> (Vec<String>, usize) {
    let pods = update.snapshot.workloads.keys().map(ToString::to_string);
    let names = pods.chain(update.snapshot.services.keys().map(ToString::to_string));
    (names.collect(), update.mistakes().count())
}

#[test]
fn a_foreign_kind_or_an_advisory_does_not_keep_what_is_deleted() {
    let deployment =
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {}\n";
    let route =
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web}\n";
    let advisory =
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {newField: 1}\n";
    for more in [deployment, route, advisory] {
        let before = format!("{SHOP}{}{more}", policy("deny", "DENY"));
        let mut f = Fixture::new(&[("a.yaml", &before)]);
        let update = f.load();
        assert_eq!(left(&update).1, 0, "{:?}", messages(&update));
        assert_eq!(update.skipped, usize::from(more != advisory));
        let update = f.write("a.yaml", more);
        assert_eq!(update.snapshot.workloads.len(), 0, "{more}");
        assert_eq!(policies(&update), [], "{more}");
    }
}

#[test]
fn a_misspelt_own_kind_keeps_what_the_file_said() {
    for (from, to) in [
        ("kind: Pod", "kind: Pdo"),
        ("kind: Pod", "kind: pod"),
        ("apiVersion: v1\nkind: Pod", "apiVersion: v11\nkind: Pod"),
        (
            "apiVersion: v1\nkind: Pod",
            "apiVersion: apps/v1\nkind: Pod",
        ),
        ("apiVersion: v1\nkind: Pod", "apiVersoin: v1\nkind: Pod"),
        ("name: web-0", "nmae: web-0"),
    ] {
        let mut f = Fixture::new(&[("a.yaml", SHOP)]);
        let text = SHOP.replace(from, to);
        let update = f.write("a.yaml", &text);
        let expected = vec!["shop/web-0".to_owned(), "shop/web".to_owned()];
        assert_eq!(left(&update).0, expected, "{to}");
        assert!(left(&update).1 > 0, "{to}");
        // And without a former version its addresses are not outside.
        let f = Fixture::new(&[("a.yaml", &text)]);
        let update = f.updates.borrow().clone();
        let ip = "10.0.0.5".parse().expect("an address");
        assert!(update.snapshot.withholds(ip, f.now).is_some(), "{to}");
    }
}

#[test]
fn a_part_that_is_not_understood_is_as_it_was_and_the_rest_as_it_is() {
    let mut f = Fixture::new(&[("a.yaml", SHOP)]);
    let text = SHOP
        .replace("labels: {app: web}", "labels: [app]")
        .replace("nodeName: n1", "nodeName: n2")
        .replace("targetPort: http", "targetPort: [http]");
    let update = f.write("a.yaml", &text);
    assert_eq!(left(&update).1, 2, "{:?}", messages(&update));
    let pod = update.snapshot.workloads.values().next().expect("the pod");
    assert_eq!(
        (pod.labels["app"].as_str(), pod.node.as_str()),
        ("web", "n2")
    );
    let service = update.snapshot.services.values().next().expect("it");
    assert_eq!(service.ports[0].endpoints.len(), 2);
    // Another pod of the file is deleted all the same.
    let other = SHOP
        .replace("web-0", "web-1")
        .replace("10.0.0.5", "10.0.0.6")
        .replace("::5", "::6");
    let mut f = Fixture::new(&[(
        "a.yaml",
        &format!(
            "{SHOP}---\n{}",
            other.replace("kind: Namespace", "kind: ServiceAccount")
        ),
    )]);
    assert_eq!(f.load().snapshot.workloads.len(), 2);
    assert_eq!(f.write("a.yaml", &text).snapshot.workloads.len(), 1);
}

#[test]
fn a_file_that_vanishes_for_a_moment_is_not_gone() {
    let mut f = Fixture::new(&[("shop.yaml", SHOP)]);
    assert_eq!(f.remove("shop.yaml").snapshot.services.len(), 1);
    assert!(f.directory.files.due().is_some(), "it is looked at again");
    let update = f.write("shop.yaml", SHOP);
    assert_eq!(update.snapshot.generation, 1, "nothing has changed");
    assert!(f.directory.files.due().is_none());
    f.remove("shop.yaml");
    assert_eq!(f.after_grace().snapshot.services.len(), 0);
}

#[test]
fn a_renamed_file_is_no_second_one() {
    let mut f = Fixture::new(&[("shop.yaml", SHOP)]);
    std::fs::rename(f.path("shop.yaml"), f.path("web.yaml")).expect("rename");
    for update in [f.load(), f.after_grace()] {
        assert_eq!(messages(&update), Vec::<String>::new());
        assert_eq!(update.snapshot.generation, 1);
    }
}

#[test]
fn a_config_map_is_swapped_whole() {
    let mut f = Fixture::new(&[]);
    let swap = |f: &mut Fixture, version: &str, text: &str| {
        std::fs::create_dir(f.path(version)).expect("make");
        std::fs::write(f.path(version).join("shop.yaml"), text).expect("write");
        symlink(version, f.path("..data_tmp")).expect("link");
        std::fs::rename(f.path("..data_tmp"), f.path("..data")).expect("rename");
    };
    swap(&mut f, "..1", SHOP);
    symlink("..data/shop.yaml", f.path("shop.yaml")).expect("link");
    assert_eq!(f.load().snapshot.services.len(), 1);
    swap(&mut f, "..2", &SHOP.replace("name: web, ", "name: shop, "));
    std::fs::remove_dir_all(f.path("..1")).expect("remove");
    let update = f.load();
    assert_eq!(messages(&update), Vec::<String>::new());
    let services = update.snapshot.services.keys();
    assert_eq!(services.map(|s| &s.name).collect::<Vec<_>>(), ["shop"]);
    // The key leaves the map: first its target goes, then the link.
    swap(&mut f, "..3", "");
    std::fs::remove_file(f.path("..3/shop.yaml")).expect("remove");
    assert_eq!(messages(&f.load()), Vec::<String>::new());
    f.remove("shop.yaml");
    assert_eq!(f.after_grace().snapshot.services.len(), 0);
}

#[test]
fn one_file_that_cannot_be_read_is_its_own_problem() {
    type Spoil = fn(&std::path::Path);
    let spoils: [(&str, Spoil); 4] = [
        ("is not a regular file", |p| {
            std::fs::create_dir(p).expect("make");
        }),
        ("cannot be read: ", |p| symlink(p, p).expect("link")),
        ("the file is not UTF-8", |p| {
            let text = policy("both", "ALLOW") + &policy("deny", "DENY");
            let text = text.replace("both", "both\u{1}").into_bytes();
            let text: Vec<u8> = text
                .iter()
                .map(|b| if *b == 1 { 0xff } else { *b })
                .collect();
            std::fs::write(p, text).expect("write");
        }),
        ("is larger than 8 MiB", |p| {
            std::fs::write(p, vec![b'#'; (8 << 20) + 1]).expect("write");
        }),
    ];
    for (message, spoil) in spoils {
        let text = policy("allow", "ALLOW") + &policy("deny", "DENY");
        let mut f = Fixture::new(&[("a.yaml", &text), ("shop.yaml", SHOP)]);
        assert_eq!(
            policies(&f.load()),
            [("allow", false, true), ("deny", true, true)]
        );
        std::fs::remove_file(f.path("a.yaml")).expect("remove");
        spoil(&f.path("a.yaml"));
        let update = f.load();
        let told = messages(&update);
        assert!(
            told.iter()
                .any(|m| m.contains("a.yaml:") && m.contains(message)),
            "{told:?}"
        );
        let left = policies(&update);
        assert!(
            left.contains(&("allow", false, false)),
            "{message}: grants nothing: {left:?}"
        );
        assert!(
            left.contains(&("deny", true, true)),
            "{message}: denies still: {left:?}"
        );
        assert_eq!(update.snapshot.services.len(), 1, "other files count");

        let root = f.root;
        let (_, updates) = Directory::start(
            root.path().to_owned(),
            MeshSettings::default(),
            Here::default(),
        )
        .expect("a start");
        let update = updates.borrow().clone();
        assert!(messages(&update).iter().any(|m| m.contains(message)));
        assert_eq!(update.snapshot.services.len(), 1);
    }
}

/// May anybody connect to the pod of SHOP, and does it take plaintext?
fn open(update: &Update) -> (bool, bool) {
    let pod = update.snapshot.workloads.values().next().expect("the pod");
    let id = crate::model::SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web");
    let id = id.expect("an identity");
    let request = crate::policy::Request {
        source: Some(&id),
        source_ip: "10.0.0.9".parse().expect("an address"),
        destination: pod,
        destination_ip: "10.0.0.5".parse().expect("an address"),
        destination_port: 8080,
        sni: None,
        http: None,
    };
    let strict = update.policy.peer_mode(pod, 8080) == PeerMode::Strict;
    (update.policy.check(&request).is_permit(), !strict)
}

#[test]
fn a_file_that_cannot_be_read_at_a_start_refuses_until_it_can() {
    let large = vec![b'#'; (8 << 20) + 1];
    type Spoil<'s> = &'s dyn Fn(&std::path::Path);
    let spoils: [(&str, Spoil<'_>); 3] = [
        ("cannot be read", &|p| symlink(p, p).expect("link")),
        ("is larger", &|p| std::fs::write(p, &large).expect("write")),
        ("is not text", &|p| {
            std::fs::write(p, b"\0GITCRYPT\0\x93\x01").expect("write");
        }),
    ];
    for (message, spoil) in spoils {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::write(root.path().join("shop.yaml"), SHOP).expect("write");
        spoil(&root.path().join("a.yaml"));
        let mut f = Fixture::start(root);
        let told = messages(&f.load());
        assert!(told[0].contains(message), "{told:?}");
        assert!(
            told[0].ends_with("connections to all pods are refused"),
            "{told:?}"
        );
        assert_eq!(open(&f.load()), (false, false), "{message}");
        // The pod of an address that nobody else speaks of may be told of there.
        let outside = "10.0.0.99".parse().expect("an address");
        let withheld = |update: &Update| update.snapshot.withholds(outside, Instant::now());
        assert_eq!(withheld(&f.load()), Some(RefuseReason::Unreadable));
        let explained: Vec<String> = f.updates.borrow().policy_problems().collect();
        assert!(explained[0].starts_with("AuthorizationPolicy (unreadable)/a.yaml: "));
        // Another reason not to read it is no reason to let in.
        std::fs::remove_file(f.path("a.yaml")).expect("remove");
        spoils[0].1(&f.path("a.yaml"));
        assert_eq!(open(&f.load()), (false, false));
        std::fs::remove_file(f.path("a.yaml")).expect("remove");
        // Read at last, mistakes and all: only what it says counts.
        let update = f.write("a.yaml", policy("deny", "DENY") + "---\nkind: X\n");
        assert_eq!(open(&update), (true, true), "{:?}", messages(&update));
        assert_eq!(withheld(&update), None);
        assert_eq!(policies(&update), [("deny", true, true)]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_forgotten_with_the_file() {
    let root = tempfile::tempdir().expect("a directory");
    std::fs::write(root.path().join("shop.yaml"), SHOP).expect("write");
    symlink("a.yaml", root.path().join("a.yaml")).expect("link");
    let mut f = Fixture::start(root);
    assert_eq!(open(&f.load()), (false, false));
    assert_eq!(
        open(&f.remove("a.yaml")),
        (false, false),
        "away for a moment"
    );
    assert_eq!(open(&f.after_grace()), (true, true));
    assert_eq!(messages(&f.load()), Vec::<String>::new());
}

#[test]
fn a_file_that_hides_nothing_or_comes_later_takes_nothing_down() {
    let root = tempfile::tempdir().expect("a directory");
    std::fs::write(root.path().join("shop.yaml"), SHOP).expect("write");
    std::fs::create_dir(root.path().join("a.yaml")).expect("make");
    symlink("nowhere", root.path().join("b.yaml")).expect("link");
    let mut f = Fixture::start(root);
    assert_eq!(messages(&f.load()).len(), 2);
    assert_eq!(open(&f.load()), (true, true));
    symlink("c.yaml", f.path("c.yaml")).expect("link");
    assert_eq!(messages(&f.load()).len(), 3);
    assert_eq!(open(&f.load()), (true, true), "what worked goes on");
}

#[test]
fn too_many_files_or_objects_leave_all_as_it_was_and_refuse_a_start() {
    let mut f = Fixture::new(&[("shop.yaml", SHOP)]);
    let update = f.write("z.yaml", "---\na: 1\n".repeat(100_001));
    assert_eq!(update.problems.len(), 1);
    let told = messages(&update);
    assert!(told[0].contains("more than 100000 objects"), "{told:?}");
    assert!(
        told[0].ends_with("the last configuration stays"),
        "{told:?}"
    );
    assert_eq!(update.snapshot.services.len(), 1);
    let start = Directory::start(
        f.root.path().to_owned(),
        MeshSettings::default(),
        Here::default(),
    );
    assert!(matches!(start.err(), Some(Error::TooManyDocuments(_))));

    f.remove("z.yaml");
    for n in 0..10_000 {
        std::fs::write(f.path(&format!("{n}.yaml")), "").expect("write");
    }
    let told = messages(&f.load());
    assert!(
        told[0].contains("more than 10000 configuration files"),
        "{told:?}"
    );
    let start = Directory::start(
        f.root.path().to_owned(),
        MeshSettings::default(),
        Here::default(),
    );
    assert!(matches!(start.err(), Some(Error::TooManyFiles(_))));
    let update = f.remove("0.yaml");
    assert_eq!(messages(&update), Vec::<String>::new());
}

#[test]
fn mistakes_of_one_file_are_told_within_bounds() {
    let f = Fixture::new(&[("a.yaml", &"---\nkind: X\n".repeat(3_000))]);
    let update = f.updates.borrow().clone();
    assert_eq!(update.problems.len(), 1_001);
    assert!(messages(&update)[1_000].ends_with("has more mistakes than are told"));
}

#[test]
fn a_policy_deleted_from_a_good_file_is_gone() {
    let deny = policy("deny", "DENY");
    let mut f = Fixture::new(&[("a.yaml", &(policy("allow", "ALLOW") + &deny))]);
    assert_eq!(policies(&f.write("a.yaml", &deny)), [("deny", true, true)]);
    assert_eq!(policies(&f.write("a.yaml", "")), []);
}

#[test]
fn a_policy_deleted_from_a_file_with_a_mistake_restricts_until_that_is_mended() {
    let both = policy("allow", "ALLOW") + &policy("deny", "DENY");
    let mut f = Fixture::new(&[("a.yaml", &both)]);
    let restricted = [("allow", false, false), ("deny", true, true)];
    assert_eq!(policies(&f.write("a.yaml", "kind: X")), restricted);
    assert_eq!(policies(&f.write("a.yaml", "kind: Y")), restricted);
    assert_eq!(policies(&f.write("a.yaml", "")), []);
    assert_eq!(policies(&f.write("a.yaml", &both)).len(), 2);
}

#[test]
fn a_deny_with_a_new_mistake_denies_what_it_denied() {
    let deny = policy("deny", "DENY");
    let mut f = Fixture::new(&[("a.yaml", &deny)]);
    let update = f.write("a.yaml", deny.replace("ports", "prots"));
    assert_eq!(update.mistakes().count(), 1);
    assert_eq!(policies(&update), [("deny", true, true)]);
    assert_eq!(update.policy_problems().next(), None, "its rules are known");
    // An ALLOW that breaks grants nothing, whatever it granted before.
    let allow = policy("allow", "ALLOW");
    f.write("a.yaml", &allow);
    let update = f.write("a.yaml", allow.replace("ports", "prots"));
    assert_eq!(policies(&update), [("allow", false, false)]);
}

#[test]
fn a_file_in_utf_16_is_read_and_one_that_is_no_text_keeps_what_it_said() {
    let deny = policy("deny", "DENY");
    for big in [false, true] {
        let units = format!("\u{feff}{deny}");
        let units = units.encode_utf16();
        let bytes: Vec<u8> = units
            .flat_map(|u| {
                if big {
                    u.to_be_bytes()
                } else {
                    u.to_le_bytes()
                }
            })
            .collect();
        let mut f = Fixture::new(&[("shop.yaml", SHOP)]);
        let update = f.write("a.yaml", bytes);
        assert_eq!(messages(&update), Vec::<String>::new());
        assert_eq!(policies(&update), [("deny", true, true)]);
        let update = f.write("a.yaml", b"\xff\xfe\x00");
        assert_eq!(policies(&update), [("deny", true, true)]);
        assert!(messages(&update)[0].contains("is not text"));
    }
}
