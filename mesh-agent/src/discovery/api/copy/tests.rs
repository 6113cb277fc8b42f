use super::*;

fn kind(dir: &Path, size: u64) -> Kind {
    let of = Of {
        path: dir.join("pods"),
        cluster: Arc::new(crate::kube::Cluster {
            server: "https://10.96.0.1/".to_owned(),
            roots: Vec::new(),
        }),
    };
    let list = Writer::create(&of).expect("created");
    list.finish("7").expect("finished");
    let resources = super::super::resources::served();
    let resource = resources.iter().find(|r| r.plural == "pods");
    Kind {
        size,
        is_current: true,
        ..Kind::new(of, resource.expect("pods"))
    }
}

fn change(kind: &mut Kind, at: Instant) {
    let told = Told::Changed("/a".to_owned(), Some(b"{}".to_vec()));
    kind.take(told).expect("taken");
    kind.changed = at;
}

#[test]
fn what_changed_is_written_when_it_is_quiet_and_waits_in_memory_no_longer() {
    let dir = tempfile::tempdir().expect("a directory");
    // Not to be written again for 400 s at the rate.
    let mut kind = kind(dir.path(), 400 * RATE);
    let at = kind.written + Duration::from_secs(20);
    change(&mut kind, at);
    assert_eq!(kind.due(), Some(at + QUIET));
    let later = at + Duration::from_secs(2);
    change(&mut kind, later);
    assert_eq!(kind.due(), Some(later + QUIET), "not while it changes");
    kind.write(later + QUIET, false).expect("written");
    assert!(kind.changes.is_empty());
    let text = std::fs::read(&kind.of.path).expect("there");
    assert!(String::from_utf8_lossy(&text).contains("/a"));
}

#[test]
fn what_changes_again_and_again_is_written_no_more_than_the_rate_allows_in_the_long_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let size = 400 * RATE;
    let mut kind = kind(dir.path(), size);
    let begun = kind.written;
    let (mut now, mut written) = (begun, 0);
    for _ in 0..2_000 {
        change(&mut kind, now);
        now += Duration::from_secs(10);
        if kind.due().is_some_and(|due| due <= now) {
            kind.write(now, false).expect("written");
            (kind.size, kind.written) = (size, now);
            written += size;
        }
    }
    let allowed = RATE * ((now - begun) + AHEAD).as_secs() + 2 * size;
    assert!(written <= allowed, "{written} of {allowed}");
    assert!(written >= RATE * (now - begun).as_secs() / 2, "{written}");
}

#[test]
fn what_waits_to_be_written_is_a_small_part_of_the_file_and_bounded() {
    let mib = |n: usize| n << 20;
    assert_eq!(room(0), mib(1));
    assert_eq!(room(24 << 20), mib(3));
    assert_eq!(room(1 << 40), mib(8));
}
