//! As much up as down at once, on one stream.

use super::*;

/// As much as the documentation's figures need, or as a run of all suites has time for.
fn size() -> &'static str {
    match std::env::var("MESH_STREAMS").as_deref() {
        Ok("long") => "1073741824",
        _ => "134217728",
    }
}

#[test]
fn as_much_up_as_down_passes_exactly_and_is_not_held() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        // What the first exchange costs is not that of one.
        assert_eq!(mesh.client(&["both", &to, "POST", "16777216"]), true);
        let before = mesh.memory();
        let begun = Instant::now();
        let most = std::thread::scope(|scope| {
            let carried = scope.spawn(|| mesh.client(&["both", &to, "POST", size()]));
            let mut most = before;
            while !carried.is_finished() {
                let now = mesh.memory();
                most = [0, 1].map(|i| now[i].max(most[i]));
                // How often it is looked at, not a wait for anything.
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(carried.join().expect("it ran"), true);
            most
        });
        let grown = [0, 1].map(|i| (most[i] - before[i]) / 1024);
        println!(
            "{} each way to {} in {:?}: {grown:?} KiB more",
            size(),
            pod.name,
            begun.elapsed()
        );
        assert!(grown.iter().all(|kib| *kib <= 2048), "{grown:?} KiB");
        // A method that usually has none.
        assert_eq!(mesh.client(&["both", &to, "GET", "100000"]), true);
    }
}
