//! Takes all that agents left off a node: kernel state, the CNI plugin, files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::handover;
use crate::admin;
use crate::capture;
use crate::cni::{self, Left};
use crate::config::{AUTHORITY_DIR, OnDisk, Place, RUN_DIR, STATE_DIR, Uninstall};
use crate::discovery;
use crate::identity;
use crate::sys::{netns, route};

/// These are the agents' alone, and go with all that is in them, but for what the authority of
/// the mesh has there. Of another directory only what agents write goes, and itself where nothing
/// else is in it: it may be anybody's.
const OWN: [&str; 2] = [STATE_DIR, RUN_DIR];
/// Runtimes read a changed configuration at once, and tell nobody when they have.
const READ_BY_THEN: Duration = Duration::from_secs(2);
/// How often a program that had to stay is looked at.
const AGAIN: Duration = Duration::from_secs(10);

/// Removes what agents left; gives the number of pods whose rules were removed.
pub(crate) fn cleanup(bpffs_dir: &Path) -> anyhow::Result<usize> {
    cleanup_seen(bpffs_dir, &netns::Names::default())
}

fn cleanup_seen(bpffs_dir: &Path, names: &netns::Names) -> anyhow::Result<usize> {
    let cookies = capture::cleanup(bpffs_dir)?;
    let search = netns::find(names, &cookies);
    let mut removed = Ok(search.found.len());
    if let Some(error) = search.unasked {
        removed = Err(error.into());
    }
    for namespace in &search.found {
        // Of one alone: the others' go all the same.
        if let Err(error) = route::remove(namespace) {
            removed = Err(error.into());
        }
    }
    removed
}

/// What an uninstall came to.
pub(crate) struct Uninstalled {
    /// Whose rules were removed; nobody knows where that failed.
    pub(crate) pods: Option<usize>,
    pub(crate) plugin: Left,
    /// What else could not be done, by its path: all the rest was.
    pub(crate) failures: Vec<String>,
}

/// Refused while an agent runs; may be repeated.
///
/// What cannot be removed from a pod does not keep the plugin in the node's chain:
/// there it would hold up every new pod.
pub(crate) fn uninstall(flags: &Uninstall) -> anyhow::Result<Uninstalled> {
    let host = &flags.host_dir;
    let is_there = std::fs::metadata(host).map(|meta| meta.is_dir());
    let is_there = is_there.with_context(|| format!("look at {}", host.display()))?;
    anyhow::ensure!(is_there, "{} is no directory", host.display());
    let mut names = netns::Names::seen(host.join("proc"), host.join("run/netns"));
    names.files.push("/run/netns".into());
    let pods = match cleanup_seen(&seen(host, &flags.place.bpffs_dir), &names) {
        Err(error) if matches!(error.downcast_ref(), Some(capture::Error::Owned { .. })) => {
            return Err(error);
        }
        pods => pods,
    };
    let plugin = take_out(flags);
    let mut failures = remove_files(host, &flags.place, &flags.on_disk);
    let pods = pods.map_err(|error| failures.push(error)).ok();
    let failures = failures.iter().map(|error| format!("{error:#}")).collect();
    Ok(Uninstalled {
        pods,
        plugin,
        failures,
    })
}

/// A path of the node, as it is seen from here.
fn seen(host: &Path, path: &Path) -> PathBuf {
    host.join(path.strip_prefix("/").unwrap_or(path))
}

/// The plugin's own are gone by then. Gives what could not be removed.
fn remove_files(host: &Path, place: &Place, on_disk: &OnDisk) -> Vec<anyhow::Error> {
    let mut failures = Vec::new();
    let (run_dir, state_dir) = (&place.run_dir, &on_disk.state_dir);
    let sockets = vec![
        admin::socket_path(run_dir),
        handover::path(run_dir),
        place.crl(),
    ];
    let api = on_disk.api();
    let copies = discovery::copies(&seen(host, &api));
    let copies = copies.unwrap_or_else(|error| {
        let place = seen(host, &api);
        failures.push(anyhow::Error::new(error).context(format!("read {}", place.display())));
        Vec::new()
    });
    let copies = copies.iter().map(|name| api.join(name)).collect();
    let roots = identity::root_files(&on_disk.ca_root());
    let written = [
        (on_disk.node_dir.clone(), vec![on_disk.has_pods()]),
        (api, copies),
        (on_disk.ca_root(), roots.to_vec()),
        (state_dir.clone(), vec![]),
        (run_dir.clone(), sockets),
    ];
    for (dir, files) in written {
        let is_own = OWN.iter().any(|own| dir == Path::new(own));
        let dir = seen(host, &dir);
        // What a link leads to may be anybody's.
        let files = match is_own && !dir.is_symlink() {
            true => all_but_the_authoritys(&dir),
            false => Ok(files.iter().map(|file| seen(host, file)).collect()),
        };
        failures.extend(remove_all(&dir, files));
    }
    failures
}

/// These files of a directory, and the directory where nothing else is in it. One that cannot be
/// removed does not keep the others.
fn remove_all(dir: &Path, files: anyhow::Result<Vec<PathBuf>>) -> Vec<anyhow::Error> {
    let files = match files {
        Ok(files) => files,
        Err(error) => return vec![error],
    };
    let removed = files.iter().map(|file| remove(file));
    let mut failures: Vec<_> = removed.filter_map(Result::err).collect();
    match std::fs::remove_dir(dir) {
        Err(error) if !is_left(&error) => {
            let why = format!("remove {}", dir.display());
            failures.push(anyhow::Error::new(error).context(why));
        }
        _ => {}
    }
    failures
}

/// What is in a directory of the agents'.
fn all_but_the_authoritys(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let all = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        all => all.with_context(|| format!("read {}", dir.display()))?,
    };
    let authoritys = Path::new(AUTHORITY_DIR).file_name();
    let mut paths = Vec::new();
    for entry in all {
        let path = entry
            .with_context(|| format!("read {}", dir.display()))?
            .path();
        if path.file_name() != authoritys {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// It is gone, or others have it.
fn is_left(error: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound, ResourceBusy};
    let kind = error.kind();
    matches!(
        kind,
        NotFound | DirectoryNotEmpty | NotADirectory | ResourceBusy
    )
}

/// A file, or a directory with all that is in it.
fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            anyhow::ensure!(
                !has_mount(path)?,
                "{} has a mounted file system in it: unmount that first",
                path.display()
            );
            std::fs::remove_dir_all(path)
        }
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What is mounted there is somebody else's, and not removed with the directory.
fn has_mount(dir: &Path) -> anyhow::Result<bool> {
    let seen = dir.canonicalize();
    let dir = seen.with_context(|| format!("look at {}", dir.display()))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let mut at = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(at.any(|at| Path::new(at).starts_with(&dir)))
}

/// The program goes when no runtime can have the old configuration in mind any more.
fn take_out(flags: &Uninstall) -> Left {
    let run_dir = &flags.place.run_dir;
    let settings = flags.folders.settings(&flags.host_dir, run_dir);
    let mut left = cni::uninstall(&settings, false);
    if left.changed.is_empty() || left.kept.is_empty() {
        return left;
    }
    std::thread::sleep(READ_BY_THEN);
    let again = cni::uninstall(&settings, false);
    left.changed.extend(again.changed);
    Left {
        changed: left.changed,
        ..again
    }
}

/// Stays until SIGTERM or SIGINT; gives what is left then. A program of the plugin that had to
/// stay is removed when nothing needs it any more, and what failed is tried again; `told` of
/// what is done, and of other failures than before.
pub(crate) async fn plugin_away(
    flags: &Uninstall,
    mut left: Left,
    told: impl Fn(&Left),
) -> anyhow::Result<Left> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let is_done = is_done(&left);
        tokio::select! {
            _ = terminate.recv() => return Ok(left),
            _ = interrupt.recv() => return Ok(left),
            () = tokio::time::sleep(AGAIN), if !is_done => {
                let flags = flags.clone();
                let look = move || take_out(&flags);
                let now = tokio::task::spawn_blocking(look).await?;
                if is_news(&now, &left) {
                    told(&now);
                }
                left = now;
            }
        }
    }
}

fn is_done(left: &Left) -> bool {
    left.kept.is_empty() && left.failures.is_empty()
}

/// What stays as it was is not told each time.
fn is_news(now: &Left, before: &Left) -> bool {
    let is_any = !now.changed.is_empty() || !now.removed.is_empty();
    is_any || is_done(now) || now.failures != before.failures
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::FromArgMatches as _;

    use super::*;
    use crate::config::{self, Cli, Command};

    fn flags(words: &[&str]) -> Uninstall {
        let words = [&["mesh-agent", "uninstall"], words].concat();
        let matches = config::command().try_get_matches_from(words);
        let cli = Cli::from_arg_matches(&matches.expect("flags")).expect("flags");
        match cli.command {
            Command::Uninstall(flags) => *flags,
            other => panic!("{other:?}"),
        }
    }

    /// With a file in it at each of these paths.
    fn host(files: &[&str]) -> tempfile::TempDir {
        let host = tempfile::tempdir().expect("a directory");
        for file in files {
            let file = seen(host.path(), Path::new(file));
            fs::create_dir_all(file.parent().expect("a directory")).expect("made");
            fs::write(file, "").expect("written");
        }
        host
    }

    fn removed(host: &tempfile::TempDir, words: &[&str]) {
        let flags = flags(words);
        for _ in 0..2 {
            let failures = remove_files(host.path(), &flags.place, &flags.on_disk);
            assert!(failures.is_empty(), "{failures:?}");
        }
    }

    #[test]
    fn a_host_directory_that_is_not_there_is_no_clean_host() {
        let host = host(&["/file"]);
        for name in ["none", "file"] {
            let dir = host.path().join(name).display().to_string();
            let said = uninstall(&flags(&["--host-dir", &dir])).err();
            let said = format!("{:#}", said.expect("refused"));
            assert!(said.contains(&dir), "{said}");
        }
    }

    #[test]
    fn what_cannot_be_removed_keeps_nothing_else_and_is_told_by_its_path() {
        let host = host(&[
            "/srv/run/admin.sock/in-a-directory",
            "/srv/state/ca-root/root.pem",
        ]);
        // A directory cannot be read as one: what is in the state is unknown.
        fs::write(host.path().join("srv/state/api"), "").expect("written");
        fs::create_dir_all(host.path().join("srv/run")).expect("made");
        fs::write(host.path().join("srv/run/handover.sock"), "").expect("written");
        let words = ["--state-dir", "/srv/state", "--run-dir", "/srv/run"];
        let flags = flags(&words);
        let failures = remove_files(host.path(), &flags.place, &flags.on_disk);
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(format!("{:#}", failures[0]).contains("srv/state/api"));
        assert!(!host.path().join("srv/run").exists());
        assert!(!host.path().join("srv/state/ca-root/root.pem").exists());
    }

    #[test]
    fn the_agents_own_directories_go_as_a_whole() {
        let host = host(&[
            "/var/lib/mesh-agent/api/pods.core",
            "/var/lib/mesh-agent/node/has-pods",
            "/var/lib/mesh-agent/of-another-version",
            "/run/mesh-agent/admin.sock",
            "/run/other",
        ]);
        removed(&host, &[]);
        let is_there = |path: &str| seen(host.path(), Path::new(path)).exists();
        assert!(!is_there("/var/lib/mesh-agent") && !is_there("/run/mesh-agent"));
        assert!(is_there("/run/other"));
    }

    /// Its root key, tokens and audit trail: on a machine that is node and authority.
    #[test]
    fn the_authoritys_state_and_a_directory_that_only_has_the_name_stay() {
        let host = host(&[
            "/var/lib/mesh-agent/api/pods.core",
            "/var/lib/mesh-agent/ca/root.key",
            "/opt/mesh-agent/bin/mesh-agent",
            "/opt/mesh-agent/admin.sock",
        ]);
        removed(&host, &["--run-dir", "/opt/mesh-agent"]);
        let is_there = |path: &str| seen(host.path(), Path::new(path)).exists();
        assert!(is_there("/var/lib/mesh-agent/ca/root.key"));
        assert!(!is_there("/var/lib/mesh-agent/api"));
        assert!(is_there("/opt/mesh-agent/bin/mesh-agent"));
        assert!(!is_there("/opt/mesh-agent/admin.sock"));
    }

    #[test]
    fn what_a_link_in_the_place_of_a_directory_leads_to_stays() {
        let host = host(&["/home/data/theirs", "/home/data/admin.sock"]);
        fs::create_dir_all(host.path().join("run")).expect("made");
        std::os::unix::fs::symlink("../home/data", host.path().join("run/mesh-agent"))
            .expect("a link");
        removed(&host, &[]);
        assert!(host.path().join("home/data/theirs").exists());
        assert!(!host.path().join("home/data/admin.sock").exists());
    }

    #[test]
    fn what_agents_wrote_elsewhere_goes_and_what_others_have_there_stays() {
        let host = host(&[
            "/srv/api/of-somebody",
            "/srv/ca-root/root.pem",
            "/srv/somebody",
            "/srv/node/has-pods",
            "/srv/run/admin.sock",
            "/srv/run/handover.sock",
            "/srv/run/crl",
        ]);
        let elsewhere = [
            ["--state-dir", "/srv"],
            ["--node-dir", "/srv/node"],
            ["--run-dir", "/srv/run"],
        ];
        let copy = host.path().join("srv/api/pods.core");
        fs::write(&copy, "mesh-agent api 2 and more").expect("written");
        removed(&host, &elsewhere.concat());
        let left = fs::read_dir(host.path().join("srv")).expect("a directory");
        let left: Vec<_> = left.map(|one| one.expect("an entry").file_name()).collect();
        let left: std::collections::BTreeSet<_> = left.into_iter().collect();
        assert_eq!(left, ["api".into(), "somebody".into()].into());
        assert!(!copy.exists() && host.path().join("srv/api/of-somebody").exists());
    }

    /// A program that is there still, and what is told of it while it is looked after.
    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_done_of_the_plugin_is_tried_again_and_told_when_it_is_done() {
        let host = host(&["/opt/cni/bin/mesh-agent-cni"]);
        let flags = flags(&["--host-dir", &host.path().display().to_string()]);
        let failed = Left {
            failures: vec![cni::Failure {
                place: "/opt/cni/bin/mesh-agent-cni".into(),
                why: "an I/O error".to_owned(),
            }],
            ..Left::default()
        };
        assert!(!is_news(&failed, &failed.clone()), "told already");
        assert!(is_news(&failed, &Left::default()));
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let tell = |left: &Left| tell.try_send(left.clone()).expect("heard");
        let away = plugin_away(&flags, failed, tell);
        let told = async { tokio::time::timeout(AGAIN * 3, told.recv()).await };
        let told = tokio::select! {
            _ = away => panic!("it ended"),
            told = told => told.expect("in time").expect("told"),
        };
        assert_eq!(told.removed.len(), 1, "{told:?}");
        assert_eq!(told.failures, []);
        assert!(!host.path().join("opt/cni/bin/mesh-agent-cni").exists());
    }

    #[test]
    fn the_pins_are_looked_for_where_agents_had_them() {
        let flags = flags(&["--host-dir", "/host", "--bpffs-dir", "/sys/fs/bpf/m"]);
        let pins = seen(&flags.host_dir, &flags.place.bpffs_dir);
        assert_eq!(pins, Path::new("/host/sys/fs/bpf/m"));
    }
}
