//! Builds the agent, in the order in which its parts need each other, and ends it.

mod api_callers;
mod authority;
mod connections;
#[cfg(test)]
mod deployed;
mod doctor;
mod endpoints;
mod handover;
mod ledger;
mod left_alone;
mod neighbours;
mod place;
mod plugin;
mod problems;
mod question;
#[cfg(test)]
mod reference;
mod reporting;
mod route_status;
mod routes;
mod source_problems;
mod status;
mod traffic;
mod uninstall;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::balance::Health;
use crate::capture::{self, Capture};
use crate::config::{OnStop, Run};
use crate::discovery::{Api, ConfigSource, Directory, Heard, Update};
use crate::enrol::{self, DataPath, PodStatus, Recheck, Reconciler};
use crate::explain::Explainer;
use crate::identity::Identities;
use crate::io;
use crate::observe::{self, AccessLogTarget, Observe};
use crate::plan::Changes;
use crate::policy::Here;
use crate::proxy::{self, Workers};
use crate::sys::process;
pub(crate) use authority::authority;
pub(crate) use doctor::doctor;
pub(crate) use ledger::TARGET as PROBLEMS;
use neighbours::Neighbours;
use place::Place;
use plugin::Plugin;
pub(crate) use question::words;
use reporting::Reporting;
pub(crate) use uninstall::cleanup;
pub(crate) use uninstall::{plugin_away, uninstall};
use view::View;

/// A pod that could not be enrolled is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel's side is looked after: lost links, refusals.
const REFRESH: Duration = Duration::from_millis(500);
/// A pass that takes longer is told: pods are neither enrolled nor looked at meanwhile.
const SLOW: Duration = Duration::from_secs(2);
/// How long the end waits for what reads the configuration.
const LAST: Duration = Duration::from_secs(2);

/// Runs the agent until SIGTERM or SIGINT.
pub(crate) async fn run(flags: Run) -> anyhow::Result<()> {
    let begun = Instant::now();
    capture::check_privileges()?;
    let open_files = process::raise_open_files().context("raise the limit of open files")?;
    let proxy_config = proxy_config(&flags, open_files);
    let proxy = proxy_config.clone();
    let node = node_name(flags.node_name.as_deref())?;
    let mut place = Place::new(&flags)?;
    // Before anything that another agent on this node may use.
    let owner = match capture::Owner::of(&place.capture.bpffs_dir) {
        Err(capture::Error::Owned { .. }) if flags.host.take_over => None,
        owner => Some(owner?),
    };
    // Before another agent is asked for what it has.
    let _seat = capture::Seat::of(&place.capture.agent_cgroup)?;
    let (source, mut updates) = source(&flags, &node).await?;
    let observe = Observe::start(observe_config(&flags, &node));
    let identities = Identities::start(flags.identity.config(
        &node,
        &flags.place.run_dir,
        (flags.api.access(), &flags.api.state_dir),
    ));
    observe.register(|registry| identities.register(registry));
    let owner = match owner {
        Some(owner) => owner,
        None => {
            // The other one's pods have theirs: they are not to wait for ours.
            let wanted = updates.borrow().snapshot.clone();
            handover::certificates(&identities, &wanted, &node).await;
            handover::wait(&place.capture.bpffs_dir, &flags.place.run_dir).await?
        }
    };
    let admin = admin::bind(flags.metrics_addr, &flags.place.run_dir).await?;
    let scrapes = admin::bind_scrapes(flags.scrape_addr).await?;
    let offer = handover::Offer::new(&flags.place.run_dir)?;
    let capture = Capture::start(&place.capture, owner)?;
    let tuples = capture.tuples_handle()?;
    let stats = capture.stats()?;
    let explainer = Explainer {
        node: node.clone(),
        node_zone: proxy_config.node_zone.clone(),
        trust_domain: identities.trust_domain().clone(),
        same_node_tls: flags.same_node_tls,
        published: source.published(),
    };
    let seen = Arc::<proxy::Seen>::default();
    let health = Arc::new(Health::new(begun));
    let neighbours = Neighbours::new(
        (node.clone(), place.capture.cgroup_root.clone()),
        seen.clone(),
        source.published(),
    );
    let (workers, mut ended) = Workers::start(
        proxy_config,
        proxy::Environment {
            node: node.clone(),
            trust_domain: identities.trust_domain().clone(),
            published: source.published(),
            entered_pod: Arc::new(move |from, to| tuples.entered_pod(from, to)),
            observe: observe.clone(),
            seen: seen.clone(),
            health: health.clone(),
        },
    )?;
    let mut reconciler = Reconciler::new(
        enrol::Parts {
            node: node.clone(),
            capture,
            workers,
            identities: identities.clone(),
            find: place.find.take(),
            probers: place.probers.clone(),
        },
        &observe,
    )?;
    let (arrivals, mut arrived) = enrol::arrivals();
    let mut plugin = Plugin::start(&flags, &node, &observe, arrivals.clone())?;
    let reporting = match source.heard() {
        Heard::Api(watched) => {
            let (reporting, reports) = Reporting::new(watched);
            identities.report(reports);
            Some(reporting)
        }
        Heard::Directory(_) => None,
    };
    let parts = view::Parts {
        node,
        stats,
        observe,
        identities: identities.clone(),
        explainer,
        published: source.published(),
        proxy,
        heard: source.heard(),
        reporting,
        health,
        neighbours,
        plugin: plugin.as_ref().map(Plugin::keeper),
        without_plugin: problems::WithoutPlugin {
            is_guarded: !flags.guard_cgroup.is_empty(),
            is_ready: flags.ready_without_cni,
        },
    };
    let view = Arc::new(View::new(parts));
    let cancel = CancellationToken::new();
    // What another agent has from this one's hand.
    let serving = cancel.child_token();
    let mut pages = tokio::spawn(admin::serve(admin, scrapes, view.clone(), serving.clone()));
    let following = source
        .follow(cancel.clone())
        .context("start the thread that follows the configuration")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut refresh = tokio::time::interval(REFRESH);
    let mut trust = identities.trust_changes();
    updates.mark_changed();
    let mut retry: Option<tokio::time::Instant> = None;
    let mut start = Some(begun);
    let mut appearing = enrol::Appearing::start();
    let asker = loop {
        // What to look at again for: a change, or something of this node's own.
        let (changed, look) = tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            asker = offer.asked() => break Some(asker),
            _ = hangup.recv() => { view.reopen_log(); continue; }
            // At once, and nothing is taken out of the kernel: closed pods stay closed.
            what = ended.wait() => return Err(ended_early(&what)),
            _ = Plugin::ended(&mut plugin) => return Err(ended_early("a task of the CNI plugin")),
            _ = &mut pages => return Err(ended_early("the task of the admin pages")),
            changed = updates.changed() => {
                changed.map_err(|_| ended_early("the thread that follows the configuration"))?;
                (true, false)
            }
            Some(one) = arrived.next() => {
                reconciler.arrived(one);
                (false, true)
            }
            changed = trust.changed() => {
                changed.map_err(|_| ended_early("the task that gets certificates"))?;
                if let Some(trust) = identities.trust() {
                    reconciler.recheck(&Recheck::Trust(trust)).await;
                }
                (false, false)
            }
            Some(()) = appearing.next() => {
                appearing.follow(&reconciler.above_pods());
                (false, reconciler.have_pods_moved())
            }
            _ = refresh.tick() => {
                view.report();
                appearing.follow(&reconciler.above_pods());
                let is_due = retry.is_some_and(|at| at <= tokio::time::Instant::now());
                (false, is_due || reconciler.have_pods_moved())
            }
        };
        let pass = Instant::now();
        if changed || look {
            let taken = {
                let update = updates.borrow_and_update();
                // Before the source has said anything, "no pods" is not what it says.
                update
                    .is_known()
                    .then(|| (update.clone(), update.take_changes()))
            };
            let Some((update, changes)) = taken else {
                view.look();
                continue;
            };
            let looked = reconcile(&mut reconciler, (&update, changes), &view, look).await;
            if view.has_pods() {
                place.note_pods();
            }
            if let Some(plugin) = &mut plugin {
                plugin.configured(&update.snapshot);
            }
            if let Some(whole) = looked {
                retry = (!whole).then(|| tokio::time::Instant::now() + RETRY);
            }
        }
        if reconciler.restore() {
            let pods = reconciler.statuses();
            view.reconciled(&updates.borrow(), &pods, reconciler.unsettled());
        }
        reconciler.log_refusals();
        view.carries(reconciler.carried());
        view.look();
        if let Some(begun) = start.take_if(|_| view.is_settled()) {
            view.tell_start(&flags, begun.elapsed());
        }
        tell_slow(pass.elapsed());
    };
    drop(arrivals);
    if let Some(plugin) = plugin {
        plugin.end().await;
    }
    if let Some(asker) = asker {
        serving.cancel();
        pages.await.context("end the control tasks")?;
        // Before the next one makes its own of that name.
        drop(offer);
        reconciler.hand_over();
        view.hand_over();
        asker.tell().await;
        tracing::info!("another agent takes over; this one serves what it has");
        let rest = handover::Rest {
            reconciler: &mut reconciler,
            identities: &identities,
            updates: &mut updates,
            appearing: &mut appearing,
            bpffs_dir: &place.capture.bpffs_dir,
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            what = ended.wait() => return Err(ended_early(&what)),
            why = rest.serve() => return Err(why),
        }
        tracing::info!("stopping");
        reconciler.leave(flags.drain_timeout).await?;
        identities.stop().await;
        cancel.cancel();
        end(following).await;
        return Ok(());
    }
    tracing::info!("stopping");
    view.is_stopping();
    let on_stop = match flags.on_stop {
        OnStop::Remove => capture::OnStop::Remove,
        OnStop::Keep => capture::OnStop::Keep,
    };
    reconciler.stop(flags.drain_timeout, on_stop).await?;
    identities.stop().await;
    cancel.cancel();
    pages.await.context("end the control tasks")?;
    anyhow::ensure!(
        end(following).await,
        "the thread that follows the configuration failed"
    );
    // Absent is fine.
    let _absent = std::fs::remove_file(admin::socket_path(&flags.place.run_dir));
    Ok(())
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

/// Where the configuration is from.
async fn source(
    flags: &Run,
    node: &str,
) -> anyhow::Result<(ConfigSource, tokio::sync::watch::Receiver<Update>)> {
    let here = Here::Node(node.to_owned());
    let settings = flags.mesh_settings();
    if let Some(config) = flags.api.config() {
        let (api, updates) = Api::start(config, settings, here).await?;
        return Ok((ConfigSource::Api(api), updates));
    }
    let (directory, updates) = Directory::start(flags.config_dir.clone(), settings, here)?;
    Ok((ConfigSource::Directory(directory), updates))
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

fn node_name(flag: Option<&str>) -> anyhow::Result<String> {
    match flag {
        Some(name) => Ok(name.to_owned()),
        None => {
            let name =
                nix::unistd::gethostname().context("read the host name; give --node-name")?;
            Ok(name.to_string_lossy().into_owned())
        }
    }
}

fn observe_config(flags: &Run, node: &str) -> observe::Config {
    observe::Config {
        node: node.to_owned(),
        cluster: flags.cluster_id.clone(),
        route_label: !flags.no_route_label,
        log: access_log(&flags.access_log),
        events: flags.access_log_events.into(),
    }
}

fn access_log(flag: &str) -> AccessLogTarget {
    match flag {
        "off" => AccessLogTarget::Off,
        "-" => AccessLogTarget::Stdout,
        path => AccessLogTarget::File(PathBuf::from(path)),
    }
}

fn proxy_config(flags: &Run, open_files: u64) -> proxy::Config {
    let mut defaults = proxy::Config::default();
    let workers = flags.workers.unwrap_or(defaults.workers);
    let limits = io::Limits::of(open_files, workers);
    let max_connections = flags.max_connections.unwrap_or(limits.connections);
    let per_pod = limits.connections_per_pod.min(max_connections);
    let per_pod = flags.max_connections_per_pod.unwrap_or(per_pod);
    let said = [flags.max_requests, flags.max_requests_per_pod];
    let [max_requests, max_requests_per_pod] =
        proxy::request_limits(said, [max_connections, per_pod]);
    defaults.pool.in_all = limits.pooled;
    defaults.pool.per_pod = defaults.pool.per_pod.min(limits.pooled);
    proxy::Config {
        workers,
        limits,
        node_zone: flags.node_zone.clone().filter(|zone| !zone.is_empty()),
        connect_timeout: flags.connect_timeout,
        idle_timeout: flags.idle_timeout,
        max_connections,
        max_connections_per_pod: per_pod,
        max_requests,
        max_requests_per_pod,
        max_buffer_bytes: flags.max_buffer_mib.saturating_mul(1 << 20),
        handshake_timeout: flags.handshake_timeout,
        same_node_tls: flags.same_node_tls,
        delivery_ports: flags.delivery_ports.clone(),
        ..defaults
    }
}
