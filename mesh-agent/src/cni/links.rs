//! Links on the host, as they lead there: one that begins at the root begins at the
//! host's, which is a folder here.

use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows.
const MAX: usize = 40;

/// Where a path of the host's is seen from here. What is not there stays as it is named,
/// and of a circle a link.
pub(super) fn followed(host: &Path, path: &Path) -> PathBuf {
    let (mut at, mut depth, mut links) = (host.to_owned(), 0_usize, 0);
    let mut rest = names(path);
    while let Some(name) = rest.pop() {
        if name == ".." {
            // Above the root is the root.
            if depth > 0 {
                at.pop();
                depth -= 1;
            }
            continue;
        }
        let next = at.join(&name);
        match fs::read_link(&next) {
            Ok(target) if links < MAX => {
                links += 1;
                if target.is_absolute() {
                    (at, depth) = (host.to_owned(), 0);
                }
                rest.extend(names(&target));
            }
            _ => {
                at = next;
                depth += 1;
            }
        }
    }
    at
}

/// The last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_leads_where_it_leads_on_the_host_and_never_above_its_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = dir.path();
        let at = |path: &str| host.join(path);
        fs::create_dir_all(at("data/1/bin")).expect("made");
        for (to, link) in [
            ("/data/1", "data/current"),
            ("../data/current/bin", "data/bin"),
            ("../../../../../etc", "data/out"),
            ("/data/none/../1", "data/gone"),
            ("round", "round"),
        ] {
            symlink(to, at(link)).expect("linked");
        }
        for (path, seen) in [
            ("/data/1/bin/x", "data/1/bin/x"),
            ("/data/current/bin", "data/1/bin"),
            ("/data/bin/x", "data/1/bin/x"),
            ("/data/out/passwd", "etc/passwd"),
            ("/data/gone", "data/1"),
            ("/round/x", "round/x"),
            ("/../x", "x"),
            ("/", ""),
        ] {
            assert_eq!(followed(host, Path::new(path)), at(seen), "{path}");
        }
    }
}
