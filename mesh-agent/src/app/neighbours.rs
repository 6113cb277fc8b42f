//! Is there another load balancer that pods' connections meet before the agent?

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::problems;
use crate::admin::Problem;
use crate::capture;
use crate::plan::InForce;
use crate::proxy::Seen;

/// Between looks at what is attached.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

pub(super) struct Neighbours {
    node: String,
    cgroup_root: PathBuf,
    seen: Arc<Seen>,
    published: Arc<ArcSwap<InForce>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    found: BTreeSet<String>,
}

impl Neighbours {
    pub(super) fn new(
        (node, cgroup_root): (String, PathBuf),
        seen: Arc<Seen>,
        published: Arc<ArcSwap<InForce>>,
    ) -> Self {
        Self {
            node,
            cgroup_root,
            seen,
            published,
            state: Mutex::default(),
        }
    }

    /// One that leaves Services' addresses alone is none: it is told by the
    /// connections that come, since it is there.
    pub(super) fn problem(&self) -> Option<Problem> {
        let mut state = self.state.lock();
        if state.looked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            state.looked = Some(Instant::now());
            self.look(&mut state);
        }
        let is_one = !state.found.is_empty() && self.seen.is_pods_only();
        is_one.then(|| problems::of_neighbours(&capture::names(&state.found)))
    }

    fn look(&self, state: &mut State) {
        let snapshot = self.published.load().snapshot.clone();
        let pods = snapshot.enrolled_on(&self.node);
        let pods = pods.filter_map(|pod| pod.on_node.cgroup.as_deref());
        let dirs = std::iter::once(&*self.cgroup_root).chain(pods);
        match capture::neighbours(dirs) {
            Ok(found) if found != state.found => {
                if !found.is_empty() {
                    let programs = capture::names(&found);
                    tracing::info!(programs, "programs of others run where pods connect");
                }
                state.found = found;
                self.seen.forget();
            }
            Ok(_) => {}
            // As it was: what cannot be looked at has not gone.
            Err(error) => tracing::debug!(%error, "cannot look at others' programs"),
        }
    }
}
