//! Tar archives (POSIX ustar), the same bytes for the same files: entries by
//! name, everything owned by root, no times.

use std::collections::BTreeMap;

const BLOCK: usize = 512;
/// What fits without the prefix field, which nothing here needs.
const LONGEST_NAME: usize = 100;

enum Entry {
    Folder,
    File(Vec<u8>),
    Link(String),
}

/// Files by path, without a leading slash.
#[derive(Default)]
pub(super) struct Files(BTreeMap<String, (u32, Entry)>);

impl Files {
    pub(super) fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        self.insert(path, mode, Entry::File(data));
    }

    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        self.insert(path, mode, Entry::Folder);
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.insert(path, 0o777, Entry::Link(target.to_owned()));
    }

    fn insert(&mut self, path: &str, mode: u32, entry: Entry) {
        assert!(path.len() < LONGEST_NAME, "{path} is too long for a tar");
        for (at, _) in path.match_indices('/') {
            let parent = path[..at].to_owned();
            self.0.entry(parent).or_insert((0o755, Entry::Folder));
        }
        self.0.insert(path.to_owned(), (mode, entry));
    }

    pub(super) fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (path, (mode, entry)) in &self.0 {
            let (name, kind, data, target) = match entry {
                Entry::Folder => (format!("{path}/"), b'5', &[][..], ""),
                Entry::File(data) => (path.clone(), b'0', data.as_slice(), ""),
                Entry::Link(target) => (path.clone(), b'2', &[][..], target.as_str()),
            };
            archive.extend(header(&name, *mode, data.len(), kind, target));
            archive.extend_from_slice(data);
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        }
        archive.resize(archive.len() + 2 * BLOCK, 0);
        archive
    }
}

fn header(name: &str, mode: u32, size: usize, kind: u8, target: &str) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, &format!("{:07o}", 0)); // owner
    put(116, &format!("{:07o}", 0)); // group
    put(124, &format!("{size:011o}"));
    put(136, &format!("{:011o}", 0)); // time
    put(148, "        "); // the sum is taken with blanks in its place
    put(157, target);
    put(257, "ustar\u{0}00");
    header[156] = kind;
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\u{0}").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Files {
        let mut files = Files::default();
        files.file("b/c/data", 0o640, b"hello\n".to_vec());
        files.file("b/big", 0o755, vec![7; 3 * BLOCK]);
        files.folder("tmp", 0o1777);
        files.link("a", "/b/big");
        files
    }

    #[test]
    fn tar_reads_what_is_written() {
        let mut tar = Command::new("tar")
            .args(["-tv", "--numeric-owner", "--utc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start tar");
        let mut to = tar.stdin.take().expect("its input");
        to.write_all(&sample().archive()).expect("write");
        drop(to);
        let out = tar.wait_with_output().expect("wait for tar");
        assert!(out.status.success());
        let listed = String::from_utf8(out.stdout).expect("text");
        let listed: Vec<String> = listed
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let time = "1970-01-01 00:00";
        let expected = [
            format!("lrwxrwxrwx 0/0 0 {time} a -> /b/big"),
            format!("drwxr-xr-x 0/0 0 {time} b/"),
            format!("-rwxr-xr-x 0/0 1536 {time} b/big"),
            format!("drwxr-xr-x 0/0 0 {time} b/c/"),
            format!("-rw-r----- 0/0 6 {time} b/c/data"),
            format!("drwxrwxrwt 0/0 0 {time} tmp/"),
        ];
        assert_eq!(listed, expected);
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let mut files = Files::default();
        files.link("a", "/b/big");
        files.folder("tmp", 0o1777);
        files.file("b/big", 0o755, vec![7; 3 * BLOCK]);
        files.file("b/c/data", 0o640, b"hello\n".to_vec());
        assert!(files.archive() == sample().archive());
    }
}
