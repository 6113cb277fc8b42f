//! A disk that stands still, and who must not wait for it.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::store::{Change, Documents, LiveCertificates, Log, Stamp, Store};
use super::*;

/// Longer than anybody here waits, so that who does fails and does not hang.
const STILL: Duration = Duration::from_secs(20);

/// What stands still.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    Refusal,
    Record,
}

/// A directory; one kind of its writes stands still until the test lets go.
struct Still {
    files: Files,
    what: Write,
    begun: mpsc::Sender<()>,
    gate: Mutex<Receiver<()>>,
}

impl Still {
    /// With what tells that a write began, and what lets all of them go.
    fn on(dir: &Path, what: Write) -> (Ca, mpsc::Receiver<()>, Sender<()>) {
        let (begun, writes) = mpsc::channel(64);
        let (let_go, gate) = channel();
        let store = Self {
            files: files(dir),
            what,
            begun,
            gate: Mutex::new(gate),
        };
        let ca = Ca::on(Arc::new(store), config(dir)).expect("an authority");
        (ca, writes, let_go)
    }

    fn wait(&self, what: Write) {
        if self.what == what {
            // Who tests needs to know of the first ones only.
            let _nobody = self.begun.try_send(());
            let _open = self.gate.lock().recv_timeout(STILL);
        }
    }
}

impl Store for Still {
    fn stamp(&self) -> Result<Stamp, Error> {
        self.files.stamp()
    }

    fn read(&self) -> Result<Documents, Error> {
        self.files.read()
    }

    fn change(&self, change: &mut Change<'_>) -> Result<(), Error> {
        self.files.change(change)
    }

    fn remember(&self, issued: &Issued) -> Result<(), Error> {
        self.wait(Write::Record);
        self.files.remember(issued)
    }

    fn forget_expired(&self, now: u64) -> Result<Vec<String>, Error> {
        self.files.forget_expired(now)
    }

    fn callers(&self) -> Result<Vec<String>, Error> {
        self.files.callers()
    }

    fn live(&self, now: u64) -> Result<LiveCertificates, Error> {
        self.files.live(now)
    }

    fn write_down(&self, log: Log, line: &[u8]) -> Result<(), Error> {
        if log == Log::Refused {
            self.wait(Write::Refusal);
        }
        self.files.write_down(log, line)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path(name)
    }

    fn begin_to_run(&self) -> Result<Box<dyn Send>, Error> {
        self.files.begin_to_run()
    }
}

#[tokio::test]
async fn who_shows_no_good_token_makes_nobody_wait_for_the_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ca, mut writes, let_go) = Still::on(dir.path(), Write::Refusal);
    token(dir.path());
    let (sender, address) = tokio::sync::oneshot::channel();
    let cancel = CancellationToken::new();
    let serving = server::serve((Arc::new(ca), None), cancel.clone(), |address, _| {
        let _ = sender.send(address);
    });
    let serving = tokio::spawn(serving);
    let address = address.await.expect("it listens");
    let begun = Instant::now();
    // Its token is of another node.
    let n2 = agent(dir.path(), address, "n2");
    n2.want(&BTreeSet::from([id("web")]));
    let write = tokio::time::timeout(STILL / 2, writes.recv()).await;
    write.expect("in time").expect("a refusal is being written");
    let n1 = agent(dir.path(), address, "n1");
    get(&n1, "web", 10).await.expect("credentials");
    assert!(begun.elapsed() < STILL, "nobody waited for the disk");
    drop(let_go);
    n1.stop().await;
    n2.stop().await;
    cancel.cancel();
    serving.await.expect("ended").expect("well");
    let refused = std::fs::read_to_string(dir.path().join("ca").join(REFUSED));
    let refused = refused.expect("the end waits for it");
    assert!(refused.contains("other_node"), "{refused}");
}

#[test]
fn how_it_is_can_be_asked_while_a_certificate_is_written_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ca, mut writes, let_go) = Still::on(dir.path(), Write::Record);
    let handle = Handle {
        seats: seats::Seats::new(8),
        ca: Arc::new(ca),
    };
    let signing = handle.ca.clone();
    let signing = std::thread::spawn(move || {
        let web = id("web");
        ask(&signing, csr(&web), 0, web.as_str()).map(|chain| chain.len())
    });
    writes.blocking_recv().expect("a write");
    let (told, answer) = channel();
    let asked = handle.clone();
    let asking = std::thread::spawn(move || {
        let _late = told.send((asked.troubles(), asked.page()));
    });
    let answer = answer.recv_timeout(STILL / 2);
    let (troubles, page) = answer.expect("it does not wait for the disk");
    assert_eq!(troubles, []);
    assert!(page.contains("mesh_ca_records 1.0"), "{page}");
    drop(let_go);
    assert_eq!(signing.join().expect("ended"), Ok(2));
    asking.join().expect("ended");
}
