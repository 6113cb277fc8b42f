//! Keeps the wanted certificates fresh; runs on the control runtime.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::files::Stamp;
use super::handle::{Failure, Handle, IdentityError};
use super::schedule::{Inquiry, Now, Plan};
use super::source::{CertificateSource, Change, Fetched, SourceError, read_file};
use super::token::TokenLife;
use crate::model::{SpiffeId, TrustDomain};
use crate::tls::{Credentials, Merged, Trust, merge_crl};

const CONCURRENT: usize = 8;
/// How often files and the clock are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Largest file of revocation lists: of more than a million certificates.
const MAX_CRL: u64 = 64 << 20;

pub(super) struct IdentityEntry {
    pub(super) handle: Arc<Handle>,
    pub(super) plan: Plan,
    pub(super) obtained: Option<SystemTime>,
}

/// What the handle type and the task share.
pub(super) struct Shared {
    pub(super) entries: Mutex<BTreeMap<SpiffeId, IdentityEntry>>,
    pub(super) trust: ArcSwapOption<Trust>,
    pub(super) generation: watch::Sender<u64>,
    pub(super) wake: Arc<Notify>,
    pub(super) problem: Mutex<Option<String>>,
    /// Of the token that was shown last.
    pub(super) token: Mutex<Option<TokenLife>>,
    /// What to do before it ends.
    pub(super) new_token: String,
    /// Successes, failures.
    pub(super) renewals: Mutex<(u64, u64)>,
    /// Of attempts, in seconds.
    pub(super) durations: Histogram,
    pub(super) source: Option<&'static str>,
    /// It makes certificates anew by itself.
    pub(super) renews: bool,
}

impl Shared {
    pub(super) fn new(source: Option<&dyn CertificateSource>) -> Self {
        Self {
            token: Mutex::default(),
            new_token: source.map(CertificateSource::new_token).unwrap_or_default(),
            entries: Mutex::default(),
            trust: ArcSwapOption::empty(),
            generation: watch::Sender::new(0),
            wake: Arc::default(),
            problem: Mutex::default(),
            renewals: Mutex::default(),
            // From 5 ms to 10 s, the time that an attempt may take.
            durations: Histogram::new(exponential_buckets(0.005, 2.0, 12)),
            source: source.map(CertificateSource::name),
            renews: source.is_some_and(CertificateSource::renews),
        }
    }

    pub(super) fn want(&self, wanted: &BTreeSet<SpiffeId>) {
        let mut entries = self.entries.lock();
        entries.retain(|id, entry| {
            let stays = wanted.contains(id);
            if !stays {
                entry.handle.close();
            }
            stays
        });
        for id in wanted {
            entries.entry(id.clone()).or_insert_with(|| IdentityEntry {
                handle: Arc::new(self.make(id, None)),
                plan: Plan::default(),
                obtained: None,
            });
        }
        drop(entries);
        self.wake.notify_one();
    }

    fn make(&self, id: &SpiffeId, ended: Option<IdentityError>) -> Handle {
        let none = self.source.is_none().then_some(IdentityError::NoSource);
        Handle::new(id.clone(), self.wake.clone(), none.or(ended))
    }

    pub(super) fn handle(&self, id: &SpiffeId) -> Arc<Handle> {
        let entries = self.entries.lock();
        let known = entries.get(id).map(|entry| entry.handle.clone());
        known.unwrap_or_else(|| Arc::new(self.make(id, Some(IdentityError::NotWanted))))
    }
}

/// The revocations in force.
enum Crl {
    /// None are looked for.
    Off,
    Unread,
    /// As [`Merged::lists`].
    Read(Vec<u8>),
}

/// Where revocation lists are.
pub(super) struct Crls {
    /// Without a readable one there is no certificate.
    pub(super) file: Option<PathBuf>,
    /// Where that names none: kept from the cluster, when it has any.
    pub(super) from_cluster: Option<PathBuf>,
    /// Those in force.
    pub(super) kept: Option<PathBuf>,
}

pub(super) struct Manager {
    shared: Arc<Shared>,
    source: Arc<dyn CertificateSource>,
    trust_domain: TrustDomain,
    aliases: Vec<TrustDomain>,
    crl_file: Option<PathBuf>,
    /// None is needed.
    crl_may_lack: bool,
    crl: Crl,
    crl_kept: Option<PathBuf>,
    crl_stamp: Option<Stamp>,
    roots: Vec<u8>,
    /// Number of the fetch that the roots came with.
    roots_from: u64,
    started: Instant,
    fetches: JoinSet<Result<Fetched, SourceError>>,
    running: HashMap<Id, (SpiffeId, u64, Instant)>,
    number: u64,
    /// After the roots, where others change.
    inquiry: Inquiry,
}

/// The lists that were in force before a restart: verified with the roots then.
fn kept(path: &Path) -> Option<Vec<u8>> {
    let bytes = read_file(path, MAX_CRL).ok()?;
    let merged = merge_crl(&bytes, None, &[], SystemTime::now());
    merged.ok().map(|merged| merged.lists)
}

/// Another look at the same file would say the same.
fn is_final(read: &std::io::Result<Vec<u8>>) -> bool {
    match read {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::FileTooLarge,
    }
}

/// By rename: half a list is none.
fn keep(bytes: &[u8], to: &Path) -> std::io::Result<()> {
    if std::fs::read(to).is_ok_and(|kept| kept == bytes) {
        return Ok(());
    }
    let draft = to.with_extension("new");
    std::fs::write(&draft, bytes)?;
    std::fs::rename(&draft, to)
}

impl Manager {
    pub(super) fn new(
        shared: Arc<Shared>,
        source: Arc<dyn CertificateSource>,
        (trust_domain, aliases): (TrustDomain, Vec<TrustDomain>),
        crls: Crls,
    ) -> Self {
        let (crl_may_lack, crl_kept) = (crls.file.is_none(), crls.kept);
        let crl_file = crls.file.or(crls.from_cluster);
        let kept = |_| crl_kept.as_deref().and_then(kept).map(Crl::Read);
        let crl = crl_file.as_ref().and_then(kept);
        let crl = crl.unwrap_or(match crl_may_lack {
            true => Crl::Off,
            false => Crl::Unread,
        });
        let mut manager = Self {
            shared,
            source,
            trust_domain,
            aliases,
            crl_file,
            crl_may_lack,
            crl,
            crl_kept,
            crl_stamp: None,
            roots: Vec::new(),
            roots_from: 0,
            started: Instant::now(),
            fetches: JoinSet::new(),
            running: HashMap::new(),
            number: 0,
            inquiry: Inquiry::default(),
        };
        manager.look_at_crl();
        manager
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shared = self.shared.clone();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = shared.wake.notified() => {}
                Some(done) = self.fetches.join_next_with_id() => match done {
                    Ok((task, result)) => self.finished(task, result),
                    Err(error) => self.finished(error.id(), Err(SourceError::Aborted)),
                },
                _ = tick.tick() => self.look(),
            }
            self.start_due();
        }
    }

    fn now(&self) -> Now {
        Now {
            wall: SystemTime::now(),
            mono: self.started.elapsed(),
        }
    }

    fn look(&mut self) {
        self.look_at_crl();
        let (change, now) = (self.source.look(), self.now());
        let mut entries = self.shared.entries.lock();
        let all = entries.values_mut().map(|entry| &mut entry.plan);
        match change {
            Change::Nothing => {}
            Change::Certificates => all.for_each(Plan::hurry),
            Change::Roots => self.inquiry.begin(now, rand::random()),
            // What was refused, and one more, which shows whether the token is good.
            Change::Token => {
                let failing = |(n, plan): &(usize, &mut Plan)| *n == 0 || plan.failures() > 0;
                all.enumerate()
                    .filter(failing)
                    .for_each(|(_, plan)| plan.try_again());
            }
        }
        // One answer tells the roots for all.
        let plans = entries.values_mut().map(|entry| &mut entry.plan);
        if self.inquiry.is_due(now)
            && let Some(plan) = plans.min_by_key(|plan| (plan.in_flight, plan.failures()))
        {
            plan.hurry();
        }
    }

    fn start_due(&mut self) {
        let now = self.now();
        let shared = self.shared.clone();
        let mut entries = shared.entries.lock();
        let mut due: Vec<_> = entries
            .iter()
            .filter_map(|(id, e)| Some((e.plan.due(now, e.handle.is_awaited())?, id.clone())))
            .collect();
        due.sort();
        for (_, id) in due {
            if self.fetches.len() >= CONCURRENT {
                return;
            }
            if let Some(entry) = entries.get_mut(&id) {
                entry.plan.in_flight = true;
                self.number += 1;
                let task = self.fetches.spawn(self.source.clone().fetch(id.clone()));
                self.running
                    .insert(task.id(), (id, self.number, Instant::now()));
            }
        }
    }

    fn finished(&mut self, task: Id, result: Result<Fetched, SourceError>) {
        let Some((id, number, begun)) = self.running.remove(&task) else {
            return;
        };
        let took = begun.elapsed().as_secs_f64();
        self.shared.durations.observe(took);
        let now = self.now();
        let installed = result.and_then(|fetched| {
            *self.shared.token.lock() = fetched.token;
            self.check(&id, &fetched, number, now)
        });
        let mut entries = self.shared.entries.lock();
        // Gone meanwhile: the key is dropped here.
        let Some(entry) = entries.get_mut(&id) else {
            return;
        };
        match installed {
            Ok(credentials) => {
                let not_after = credentials.not_after();
                entry
                    .plan
                    .succeeded(now, not_after, self.source.renews(), rand::random());
                entry.obtained = Some(now.wall);
                entry.handle.replace(Some(credentials));
                self.shared.renewals.lock().0 += 1;
            }
            Err(error) => {
                entry.plan.failed(now, rand::random());
                let failures = entry.plan.failures();
                // Told as a problem when it is one; not at each attempt.
                tracing::debug!(identity = %id, failures, "no certificate: {error}");
                entry.handle.failed(Failure {
                    message: error.to_string().into(),
                    remedy: error.remedy(),
                });
                self.shared.renewals.lock().1 += 1;
            }
        }
    }

    /// Certificate and roots are taken together or not at all.
    fn check(
        &mut self,
        id: &SpiffeId,
        fetched: &Fetched,
        number: u64,
        now: Now,
    ) -> Result<Arc<Credentials>, SourceError> {
        // An answer that was overtaken says nothing about the roots.
        let is_news = number > self.roots_from && fetched.roots != self.roots;
        let current = self.shared.trust.load_full();
        let trust = match current {
            Some(trust) if !is_news => trust,
            _ => Arc::new(self.make_trust(&fetched.roots)?),
        };
        let credentials = Credentials::new(id, &fetched.chain, &fetched.key, trust.clone())?;
        if credentials.not_after() <= now.wall {
            return Err(SourceError::ExpiredOnArrival);
        }
        self.roots_from = self.roots_from.max(number);
        if is_news {
            self.roots.clone_from(&fetched.roots);
            self.put_in_force(trust);
            // Which of the lists are ours is another question now.
            self.crl_stamp = None;
        }
        Ok(credentials)
    }

    fn make_trust(&self, roots: &[u8]) -> Result<Trust, SourceError> {
        let crl = match (&self.crl, &self.crl_file) {
            (Crl::Off, _) => None,
            (Crl::Read(bytes), _) => Some(bytes.as_slice()),
            (Crl::Unread, file) => {
                return Err(SourceError::NoCrl(file.clone().unwrap_or_default()));
            }
        };
        let trust = Trust::new(self.trust_domain.clone(), roots, crl)?;
        Ok(trust.with_aliases(self.aliases.clone()))
    }

    /// Every certificate is used under the newest trust from here on.
    fn put_in_force(&self, trust: Arc<Trust>) {
        if let (Crl::Read(bytes), Some(to)) = (&self.crl, &self.crl_kept)
            && let Err(error) = keep(bytes, to)
        {
            tracing::warn!(%error, to = %to.display(), "cannot keep the revocation list for a restart");
        }
        self.shared.trust.store(Some(trust.clone()));
        for entry in self.shared.entries.lock().values_mut() {
            let Some(held) = entry.handle.held() else {
                continue;
            };
            match held.with_trust(trust.clone()) {
                Ok(credentials) => {
                    // Peers with the new roots would refuse it: get another one.
                    if credentials.is_trusted().is_err() && self.source.renews() {
                        entry.plan.hurry();
                    }
                    entry.handle.replace(Some(credentials));
                }
                Err(error) => {
                    tracing::error!(identity = %entry.handle.id(), %error, "dropping a certificate");
                    entry.handle.replace(None);
                    entry.plan.hurry();
                }
            }
        }
        self.shared.generation.send_modify(|g| *g += 1);
    }

    fn look_at_crl(&mut self) {
        let Some(path) = self.crl_file.clone() else {
            return;
        };
        let stamp = Stamp::of(&path);
        if stamp.is_none() && self.crl_may_lack {
            return;
        }
        if stamp.is_some() && stamp == self.crl_stamp {
            return;
        }
        let name = path.display().to_string();
        let read = read_file(&path, MAX_CRL);
        // What is no good is so until there is another file, or there are other roots:
        // of many lists it takes long to find that out.
        if is_final(&read) {
            self.crl_stamp = stamp;
        }
        let result = read
            .map_err(|error| SourceError::File { path, error })
            .and_then(|bytes| self.take_crl(&bytes));
        *self.shared.problem.lock() = match &result {
            Ok(lacks) if lacks.is_empty() => None,
            Ok(lacks) => Some(format!(
                "{name} has no list of {}, which is trusted",
                lacks.join(" and ")
            )),
            Err(error) => Some(error.to_string()),
        };
    }

    /// The last good ones stay in force when this one cannot be read; gives the
    /// issuers whose list it lacks.
    fn take_crl(&mut self, bytes: &[u8]) -> Result<Vec<String>, SourceError> {
        let in_force = match &self.crl {
            Crl::Read(bytes) => Some(bytes.as_slice()),
            Crl::Off | Crl::Unread => None,
        };
        let Merged { lists, lacks } = merge_crl(bytes, in_force, &self.roots, SystemTime::now())?;
        if in_force == Some(lists.as_slice()) {
            return Ok(lacks);
        }
        let before = std::mem::replace(&mut self.crl, Crl::Read(lists));
        if self.roots.is_empty() {
            return Ok(lacks);
        }
        match self.make_trust(&self.roots) {
            Ok(trust) => {
                self.put_in_force(Arc::new(trust));
                Ok(lacks)
            }
            Err(error) => {
                self.crl = before;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::source::Fetch;

    /// Gives nothing; says once that the roots have changed.
    #[derive(Default)]
    struct Quiet {
        changed: Mutex<bool>,
    }

    impl CertificateSource for Quiet {
        fn name(&self) -> &'static str {
            "ca"
        }

        fn renews(&self) -> bool {
            true
        }

        fn fetch(self: Arc<Self>, _: SpiffeId) -> Fetch {
            Box::pin(async { Err(SourceError::Incomplete) })
        }

        fn look(&self) -> Change {
            match std::mem::take(&mut *self.changed.lock()) {
                true => Change::Roots,
                false => Change::Nothing,
            }
        }

        fn new_token(&self) -> String {
            String::new()
        }
    }

    fn manager(crl: Option<&Path>) -> (Manager, Arc<Quiet>) {
        let source = Arc::new(Quiet::default());
        let domain = TrustDomain::new("cluster.local").expect("a trust domain");
        let crls = Crls {
            file: crl.map(Path::to_owned),
            from_cluster: None,
            kept: None,
        };
        let shared = Arc::new(Shared::new(Some(&*source)));
        let manager = Manager::new(shared, source.clone(), (domain, Vec::new()), crls);
        (manager, source)
    }

    #[test]
    fn a_list_that_cannot_be_used_is_told_and_not_read_again_until_it_is_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("crl.pem");
        std::fs::write(&file, "noise").expect("written");
        let (mut manager, _) = manager(Some(&file));
        let told = |manager: &Manager| manager.shared.problem.lock().is_some();
        assert!(told(&manager));
        assert!(manager.crl_stamp.is_some() && manager.crl_stamp == Stamp::of(&file));
        // Were it read, this would be told again.
        *manager.shared.problem.lock() = None;
        manager.look_at_crl();
        assert!(!told(&manager), "it is read again");
        std::fs::write(&file, "other noise").expect("written");
        manager.look_at_crl();
        assert!(told(&manager));
        std::fs::remove_file(&file).expect("removed");
        manager.look_at_crl();
        *manager.shared.problem.lock() = None;
        manager.look_at_crl();
        assert!(told(&manager), "what is not there may come at any time");
    }

    #[tokio::test]
    async fn other_roots_elsewhere_hurry_one_certificate_a_while_later() {
        let (mut manager, source) = manager(None);
        let ids = ["db", "web"].map(crate::tls::tests::support::id);
        manager.shared.want(&ids.into_iter().collect());
        let now = manager.now();
        let year = Duration::from_secs(365 * 86_400);
        for entry in manager.shared.entries.lock().values_mut() {
            entry.plan.succeeded(now, now.wall + year, true, 0.5);
        }
        let due = |manager: &Manager| {
            let entries = manager.shared.entries.lock();
            let due = entries
                .values()
                .filter(|e| e.plan.due(now, false).is_some());
            due.count()
        };
        *source.changed.lock() = true;
        manager.look();
        assert_eq!(due(&manager), 0, "all agents would ask at once");
        // As if the time were over.
        manager.started -= Duration::from_secs(60);
        manager.look();
        assert_eq!(due(&manager), 1, "its answer tells the roots");
    }
}
