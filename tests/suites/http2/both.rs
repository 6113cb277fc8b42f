//! As much up as down at once, on one stream.

use super::*;

#[test]
fn as_much_up_as_down_passes_exactly_and_is_not_held() {
    let size = figure("1073741824", "134217728");
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        // What the first exchange costs is not that of one.
        assert_eq!(mesh.client(&["both", &to, "POST", "16777216"]), true);
        let begun = Instant::now();
        let carry = || mesh.client(&["both", &to, "POST", size]);
        let (is_exact, grown) = mesh.agents.grow_by(carry).expect("memory");
        assert_eq!(is_exact, true);
        let grown = grown.map(|bytes| bytes / 1024);
        println!(
            "{} each way to {} in {:?}: {grown:?} KiB more",
            size,
            pod.name,
            begun.elapsed()
        );
        assert!(grown.iter().all(|kib| *kib <= 2048), "{grown:?} KiB");
        // A method that usually has none.
        assert_eq!(mesh.client(&["both", &to, "GET", "100000"]), true);
    }
}
