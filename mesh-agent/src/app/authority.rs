//! Runs the certificate authority: its port, its pages, its end.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ledger::{self, Ledger, Now};
use super::status::Reported;
use crate::admin::{self, Problem};
use crate::ca::{self, Handle, Trouble};
use crate::config::RunCa;

/// How often it is looked at without being asked.
const LOOK: Duration = Duration::from_secs(5);

struct Pages {
    handle: Handle,
    ledger: Mutex<Ledger>,
}

impl Pages {
    fn look(&self) -> Vec<Problem> {
        let troubles = self.handle.troubles().into_iter().map(problem).collect();
        let (problems, lines) = self.ledger.lock().note(troubles, Now::read());
        ledger::write(&lines);
        problems
    }
}

fn problem(trouble: Trouble) -> Problem {
    let Trouble {
        subject,
        what,
        effect,
        remedy,
        blocks,
    } = trouble;
    let problem = Problem::new(subject, what, effect, remedy);
    match blocks {
        true => problem.blocking(),
        false => problem,
    }
}

impl admin::Pages for Pages {
    fn metrics(&self) -> String {
        self.handle.page()
    }

    fn problems(&self) -> Vec<Problem> {
        self.look()
    }
}

/// Until SIGTERM or SIGINT.
pub(crate) async fn authority(flags: RunCa) -> anyhow::Result<()> {
    let begun = Instant::now();
    let listener = admin::bind_pages(flags.metrics_addr).await?;
    let metrics = listener.local_addr()?;
    let scrapes = admin::bind_scrapes(flags.scrape_addr).await?;
    let domain = flags.trust_domain.clone();
    let cancel = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pages = TaskTracker::new();
    let reported = Arc::<Reported>::default();
    let told = reported.clone();
    let started = |address, handle: Handle| {
        told.set_agents(handle.clone());
        // For who started it; nobody may read it.
        let _nobody = writeln!(std::io::stdout(), "listening on {address}");
        let looked_at = Arc::new(Pages {
            handle,
            ledger: Mutex::default(),
        });
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            trust_domain = %domain,
            listen = %address,
            %metrics,
            took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "started"
        );
        pages.spawn(look(looked_at, (listener, scrapes), cancel.clone()));
    };
    let writer = flags.state.kubernetes.then(|| {
        let access = crate::config::access(flags.state.kubeconfig.clone());
        // Two of one name, one after the other, are not taken for one.
        let me = format!("{}-{:08x}", host_name(), rand::random::<u32>());
        let namespace = flags.state.namespace.clone();
        let of = (namespace, me);
        let settings = flags.mesh_settings();
        let reported = reported.clone();
        let writing = super::status::write(access, settings, of, reported, cancel.clone());
        tokio::spawn(writing)
    });
    let mut config = flags.config();
    if writer.is_some() {
        config.reports = Some(reported);
    }
    let serving = ca::run(config, cancel.clone(), started);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        _ = terminate.recv() => end(&cancel, serving).await,
        _ = interrupt.recv() => end(&cancel, serving).await,
    };
    cancel.cancel();
    pages.close();
    pages.wait().await;
    if let Some(writer) = writer {
        match writer.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "status was not written"),
            Err(error) => tracing::error!(%error, "status was not written"),
        }
    }
    Ok(ended?)
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

async fn end(
    cancel: &CancellationToken,
    serving: impl Future<Output = Result<(), ca::Error>>,
) -> Result<(), ca::Error> {
    tracing::info!("stopping");
    cancel.cancel();
    serving.await
}

async fn look(
    pages: Arc<Pages>,
    (listener, scrapes): (TcpListener, Option<TcpListener>),
    cancel: CancellationToken,
) {
    let mut tick = tokio::time::interval(LOOK);
    let serving = admin::serve_pages(listener, scrapes, pages.clone(), cancel);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            () = &mut serving => return,
            _ = tick.tick() => { pages.look(); }
        }
    }
}
