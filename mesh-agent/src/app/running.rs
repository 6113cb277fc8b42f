//! A running agent: it follows the configuration, the node and the signals, to its end.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::base::Base;
use super::neighbours::Neighbours;
use super::place::Place;
use super::plugin::Plugin;
use super::reporting::Reporting;
use super::view::{self, View};
use super::{handover, problems};
use crate::admin;
use crate::balance::Health;
use crate::capture;
use crate::config::{OnStop, Run};
use crate::discovery::{ConfigSource, Heard, Update};
use crate::enrol::{self, Appearing, Arrivals, DataPath, PodStatus, Recheck, Reconciler};
use crate::explain::Explainer;
use crate::identity::Identities;
use crate::plan::Changes;
use crate::proxy::{self, Workers};

/// A pod that could not be enrolled is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel's side is looked after: lost links, refusals.
const REFRESH: Duration = Duration::from_millis(500);
/// A pass that takes longer is told: pods are neither enrolled nor looked at meanwhile.
const SLOW: Duration = Duration::from_secs(2);
/// How long the end waits for what reads the configuration.
const LAST: Duration = Duration::from_secs(2);

pub(super) struct Running {
    flags: Run,
    place: Place,
    _seat: capture::Seat,
    identities: Identities,
    updates: watch::Receiver<Update>,
    trust: watch::Receiver<u64>,
    offer: handover::Offer,
    reconciler: Reconciler<Workers>,
    /// Of the workers.
    ended: proxy::PartEnded,
    /// Kept, so that there is somebody to hear of them without the plugin, too.
    arrivals: Arrivals,
    arrived: enrol::Arrivees,
    plugin: Option<Plugin>,
    appearing: Appearing,
    view: Arc<View>,
    pages: tokio::task::JoinHandle<()>,
    /// What another agent has from this one's hand.
    serving: CancellationToken,
    following: JoinHandle<()>,
    cancel: CancellationToken,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    refresh: tokio::time::Interval,
    /// When what could not be enrolled is tried again.
    retry: Option<tokio::time::Instant>,
    /// Until all is in place for the first time.
    begun: Option<Instant>,
}

/// Why an agent ends.
pub(super) enum End {
    /// By a signal.
    Told,
    /// Another agent takes over.
    Succeeded(handover::Asker),
}

/// What one turn is about.
enum Turn {
    Ends(End),
    /// `changed`: the configuration; `look`: something of this node's own.
    Passes {
        changed: bool,
        look: bool,
    },
    Nothing,
}

impl Running {
    pub(super) async fn start(flags: Run) -> anyhow::Result<Self> {
        let base = Base::start(flags).await?;
        let tuples = base.capture.tuples_handle()?;
        let stats = base.capture.stats()?;
        let explainer = Explainer {
            node: base.node.clone(),
            node_zone: base.proxy.node_zone.clone(),
            trust_domain: base.identities.trust_domain().clone(),
            same_node_tls: base.flags.same_node_tls,
            published: base.source.published(),
        };
        let seen = Arc::<proxy::Seen>::default();
        let health = Arc::new(Health::new(base.begun));
        let (workers, ended) = Workers::start(
            base.proxy.clone(),
            proxy::Environment {
                node: base.node.clone(),
                trust_domain: base.identities.trust_domain().clone(),
                published: base.source.published(),
                entered_pod: Arc::new(move |from, to| tuples.entered_pod(from, to)),
                observe: base.observe.clone(),
                seen: seen.clone(),
                health: health.clone(),
            },
        )?;
        let Base {
            begun,
            flags,
            node,
            mut place,
            source,
            observe,
            identities,
            ..
        } = base;
        let neighbours = Neighbours::new(
            (node.clone(), place.capture.cgroup_root.clone()),
            seen,
            source.published(),
        );
        let reconciler = Reconciler::new(
            enrol::Parts {
                node: node.clone(),
                capture: base.capture,
                workers,
                identities: identities.clone(),
                find: place.find.take(),
                probers: place.probers.clone(),
            },
            &observe,
        )?;
        let (arrivals, arrived) = enrol::arrivals();
        let plugin = Plugin::start(&flags, &node, &observe, arrivals.clone())?;
        let view = Arc::new(View::new(view::Parts {
            node,
            stats,
            observe,
            identities: identities.clone(),
            explainer,
            published: source.published(),
            held: source.held(),
            proxy: base.proxy,
            heard: source.heard(),
            reporting: reporting(&source, &identities),
            health,
            neighbours,
            plugin: plugin.as_ref().map(Plugin::keeper),
            without_plugin: problems::WithoutPlugin {
                is_guarded: !flags.guard_cgroup.is_empty(),
                is_ready: flags.ready_without_cni,
            },
        }));
        let cancel = CancellationToken::new();
        let serving = cancel.child_token();
        let pages = admin::serve(base.admin, base.scrapes, view.clone(), serving.clone());
        let pages = tokio::spawn(pages);
        let following = source
            .follow(cancel.clone())
            .context("start the thread that follows the configuration")?;
        let mut updates = base.updates;
        updates.mark_changed();
        Ok(Self {
            flags,
            place,
            _seat: base.seat,
            trust: identities.trust_changes(),
            identities,
            updates,
            offer: base.offer,
            reconciler,
            ended,
            arrivals,
            arrived,
            plugin,
            appearing: Appearing::start(),
            view,
            pages,
            serving,
            following,
            cancel,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            refresh: tokio::time::interval(REFRESH),
            retry: None,
            begun: Some(begun),
        })
    }

    /// Until it is to end.
    pub(super) async fn follow(&mut self) -> anyhow::Result<End> {
        loop {
            match self.turn().await? {
                Turn::Ends(end) => return Ok(end),
                Turn::Passes { changed, look } => self.pass(changed, look).await,
                Turn::Nothing => {}
            }
        }
    }

    async fn turn(&mut self) -> anyhow::Result<Turn> {
        let passes = |changed, look| Turn::Passes { changed, look };
        Ok(tokio::select! {
            _ = self.terminate.recv() => Turn::Ends(End::Told),
            _ = self.interrupt.recv() => Turn::Ends(End::Told),
            asker = self.offer.asked() => Turn::Ends(End::Succeeded(asker)),
            _ = self.hangup.recv() => {
                self.view.reopen_log();
                Turn::Nothing
            }
            // At once, and nothing is taken out of the kernel: closed pods stay closed.
            what = self.ended.wait() => return Err(ended_early(&what)),
            _ = Plugin::ended(&mut self.plugin) => {
                return Err(ended_early("a task of the CNI plugin"));
            }
            _ = &mut self.pages => return Err(ended_early("the task of the admin pages")),
            changed = self.updates.changed() => {
                changed.map_err(|_| ended_early("the thread that follows the configuration"))?;
                passes(true, false)
            }
            Some(one) = self.arrived.next() => {
                self.reconciler.arrived(one);
                for _ in 0..enrol::MAX_ARRIVALS {
                    let Some(one) = self.arrived.waiting() else { break };
                    self.reconciler.arrived(one);
                }
                passes(false, true)
            }
            changed = self.trust.changed() => {
                changed.map_err(|_| ended_early("the task that gets certificates"))?;
                if let Some(trust) = self.identities.trust() {
                    self.reconciler.recheck(&Recheck::Trust(trust)).await;
                }
                passes(false, false)
            }
            Some(()) = self.appearing.next() => {
                self.appearing.follow(&self.reconciler.above_pods());
                passes(false, self.reconciler.have_pods_moved())
            }
            _ = self.refresh.tick() => {
                self.view.report();
                self.appearing.follow(&self.reconciler.above_pods());
                let is_due = self.retry.is_some_and(|at| at <= tokio::time::Instant::now());
                passes(false, is_due || self.reconciler.have_pods_moved())
            }
        })
    }

    async fn pass(&mut self, changed: bool, look: bool) {
        let since = Instant::now();
        if (changed || look) && !self.configure(look).await {
            self.view.look();
            return;
        }
        if self.reconciler.restore() {
            let pods = self.reconciler.statuses();
            let unsettled = self.reconciler.unsettled();
            self.view
                .reconciled(&self.updates.borrow(), &pods, unsettled);
        }
        self.reconciler.log_refusals();
        self.view.carries(self.reconciler.carried());
        self.view.look();
        if let Some(begun) = self.begun.take_if(|_| self.view.is_settled()) {
            self.view.tell_start(&self.flags, begun.elapsed());
        }
        tell_slow(since.elapsed());
    }

    /// Puts the newest configuration in force on the node; false before there is any.
    /// `look`: at the node's pods, whether or not it says something new of them.
    async fn configure(&mut self, look: bool) -> bool {
        let taken = {
            let update = self.updates.borrow_and_update();
            // Before the source has said anything, "no pods" is not what it says.
            let is_known = update.is_known();
            is_known.then(|| (update.clone(), update.take_changes()))
        };
        let Some((update, changes)) = taken else {
            return false;
        };
        let by = (&update, changes);
        let looked = reconcile(&mut self.reconciler, by, &self.view, look).await;
        if self.view.has_pods() {
            self.place.note_pods();
        }
        if let Some(plugin) = &mut self.plugin {
            plugin.configured(&update.snapshot);
        }
        if let Some(whole) = looked {
            self.retry = (!whole).then(|| tokio::time::Instant::now() + RETRY);
        }
        true
    }

    /// Another agent takes over: what this one carries goes on until it is told to end.
    pub(super) async fn hand_over(mut self, asker: handover::Asker) -> anyhow::Result<()> {
        drop(self.arrivals);
        if let Some(plugin) = self.plugin.take() {
            plugin.end().await;
        }
        self.serving.cancel();
        self.pages.await.context("end the control tasks")?;
        // Before the next one makes its own of that name.
        drop(self.offer);
        self.reconciler.hand_over();
        self.view.hand_over();
        asker.tell().await;
        tracing::info!("another agent takes over; this one serves what it has");
        let rest = handover::Rest {
            reconciler: &mut self.reconciler,
            identities: &self.identities,
            updates: &mut self.updates,
            appearing: &mut self.appearing,
            bpffs_dir: &self.place.capture.bpffs_dir,
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            what = self.ended.wait() => return Err(ended_early(&what)),
            why = rest.serve() => return Err(why),
        }
        tracing::info!("stopping");
        self.reconciler.leave(self.flags.drain_timeout).await?;
        self.identities.stop().await;
        self.cancel.cancel();
        end(self.following).await;
        Ok(())
    }

    /// Ends its connections, and takes its pods out of the mesh or leaves them closed.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.arrivals);
        if let Some(plugin) = self.plugin.take() {
            plugin.end().await;
        }
        tracing::info!("stopping");
        self.view.is_stopping();
        let on_stop = match self.flags.on_stop {
            OnStop::Remove => capture::OnStop::Remove,
            OnStop::Keep => capture::OnStop::Keep,
        };
        self.reconciler
            .stop(self.flags.drain_timeout, on_stop)
            .await?;
        self.identities.stop().await;
        self.cancel.cancel();
        self.pages.await.context("end the control tasks")?;
        anyhow::ensure!(
            end(self.following).await,
            "the thread that follows the configuration failed"
        );
        // Absent is fine.
        let _absent = std::fs::remove_file(admin::socket_path(&self.flags.place.run_dir));
        Ok(())
    }
}

/// Where the API is the source the authority is told what of it is in force here.
fn reporting(source: &ConfigSource, identities: &Identities) -> Option<Reporting> {
    match source.heard() {
        Heard::Api(watched) => {
            let (reporting, reports) = Reporting::new(watched);
            identities.report(reports);
            Some(reporting)
        }
        Heard::Directory(_) => None,
    }
}

fn tell_slow(pass: Duration) {
    if pass >= SLOW {
        let seconds = pass.as_secs_f64();
        tracing::warn!(
            seconds,
            "a look at the node's pods took long: changes had to wait"
        );
    }
}

/// False: it failed. One that reads what does not answer is left behind: it ends
/// with the process.
async fn end(following: std::thread::JoinHandle<()>) -> bool {
    let until = Instant::now() + LAST;
    while !following.is_finished() {
        if Instant::now() > until {
            tracing::warn!("the configuration directory does not answer");
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    following.join().is_ok()
}

/// Nothing of the agent ends by itself: it is a mistake in it.
fn ended_early(what: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{what} has ended by itself, or one of its listeners has, most likely by a panic that is told above: the agent ends, to be started again; what is enrolled stays so, and closed pods are refused until then"
    )
}

/// Applies an update, as far as it is about this node's pods; false when one
/// could not be enrolled. `look`: also where it is not.
async fn reconcile<D: DataPath>(
    reconciler: &mut Reconciler<D>,
    (update, changes): (&Update, Changes),
    view: &View,
    look: bool,
) -> Option<bool> {
    let applies = look || changes.concern_enrolment();
    // Before pods come and go: what is forbidden now ends first.
    let what = Recheck::Policy(Arc::new(changes));
    reconciler.recheck(&what).await;
    let pods = match applies {
        true => reconciler.apply(&update.snapshot).await,
        false => reconciler.statuses(),
    };
    view.reconciled(update, &pods, reconciler.unsettled());
    applies.then(|| pods.iter().all(PodStatus::is_whole) && reconciler.unsettled().is_none())
}
