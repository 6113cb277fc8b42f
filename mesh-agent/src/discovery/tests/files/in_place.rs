//! Files that are written while they are looked at, and before anybody looks.

use super::super::super::files::GRACE;
use super::{Fixture, messages, policies, policy};

/// As `> file` and a slow producer make it.
#[test]
fn a_file_that_is_written_in_place_takes_nothing_back_meanwhile() {
    let (deny, other) = (policy("deny", "DENY"), policy("other", "ALLOW"));
    let both = format!("{deny}---\n{other}");
    let mut fixture = Fixture::new(&[("p.yaml", &both)]);
    let whole = [("deny", true, true), ("other", false, true)];
    assert_eq!(policies(&fixture.load()), whole);
    for cut in ["", "# nothing yet\n", &deny] {
        assert_eq!(policies(&fixture.write_in_place("p.yaml", cut)), whole);
        fixture.now += GRACE / 2;
        let update = fixture.load();
        assert_eq!(policies(&update), whole, "{cut:?}");
        assert_eq!(update.mistakes().count(), 0, "{cut:?}");
        let update = fixture.write_in_place("p.yaml", &both);
        assert_eq!(policies(&update), whole);
    }
    // Nor does it say anything else: the last of its documents may be half. What stays out is
    // taken back, as by who deletes a file.
    let new = policy("new", "DENY");
    let update = fixture.write_in_place("p.yaml", format!("{deny}---\n{new}"));
    assert_eq!(policies(&update), whole);
    let known = [whole[0], ("new", true, true)];
    assert_eq!(policies(&fixture.after_grace()), known);
    fixture.write_in_place("p.yaml", &both);
    assert_eq!(policies(&fixture.after_grace()), whole);
    // An empty file is nobody's word: a disk may be full, or a producer slow.
    fixture.write_in_place("p.yaml", "");
    for _ in 0..3 {
        let update = fixture.after_grace();
        assert_eq!(policies(&update), [whole[0], ("other", false, false)]);
        assert!(
            messages(&update)
                .iter()
                .any(|said| said.contains("is empty"))
        );
    }
    fixture.remove("p.yaml");
    let update = fixture.after_grace();
    assert_eq!((policies(&update), messages(&update)), (vec![], vec![]));
    // One that never said anything says nothing; of one that was there at a start nobody knows.
    let update = fixture.write_in_place("new.yaml", "");
    assert_eq!(messages(&update), [""; 0]);
    let fixture = Fixture::new(&[("p.yaml", "")]);
    let update = fixture.updates.borrow().clone();
    assert!(
        messages(&update)[0].contains("is empty"),
        "{:?}",
        messages(&update)
    );
}

/// Of two files that say one object differently neither loses its word for being written.
#[test]
fn what_is_said_twice_counts_twice_while_one_file_is_written_in_place() {
    let (ours, theirs) = (policy("p", "DENY"), policy("p", "ALLOW"));
    let more = policy("more", "DENY");
    let mut fixture = Fixture::new(&[
        ("a.yaml", &format!("{ours}---\n{more}")),
        ("b.yaml", &theirs),
    ]);
    let before = policies(&fixture.load()).len();
    assert_eq!(before, 3);
    let update = fixture.write_in_place("a.yaml", &ours);
    assert_eq!(policies(&update).len(), 3, "{:?}", policies(&update));
    assert_eq!(policies(&fixture.after_grace()).len(), 2);
}

/// The watch begins after the first look: what is written between is seen by it.
#[tokio::test]
async fn what_is_written_before_the_watch_stands_is_seen_when_it_does() {
    let Fixture {
        root,
        directory,
        mut updates,
        ..
    } = Fixture::new(&[]);
    updates.mark_unchanged();
    std::fs::write(root.path().join("p.yaml"), policy("deny", "DENY")).expect("write");
    let cancel = tokio_util::sync::CancellationToken::new();
    let thread = directory.follow(cancel.clone()).expect("a thread");
    // Much less than the time of a look without a word.
    let changed = tokio::time::timeout(std::time::Duration::from_secs(5), updates.changed());
    assert!(changed.await.is_ok(), "not seen");
    assert_eq!(updates.borrow().snapshot.policies.len(), 1);
    cancel.cancel();
    thread.join().expect("it ends");
}
