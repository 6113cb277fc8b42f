//! What guards a pod's link: where it is attached, and under which pin.

use std::net::IpAddr;
use std::path::PathBuf;

use aya::util::KernelVersion;
use aya_obj::generated::bpf_attach_type;

use super::error::Error;
use super::pins::Pins;

/// How links are guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkGuard {
    /// Kernel links, beside others' (Linux 6.6).
    Tcx,
    /// Classifiers of a `clsact` discipline.
    Clsact,
    Off,
}

impl LinkGuard {
    /// What this kernel has.
    #[must_use]
    pub(crate) fn of_kernel() -> Self {
        let tcx = KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(6, 6, 0));
        if tcx { Self::Tcx } else { Self::Clsact }
    }
}

/// Seen from the node's side of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    /// Frames from the pod.
    Leave,
    /// Frames to the pod.
    Enter,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Leave, Self::Enter];

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Leave => "mesh_leave",
            Self::Enter => "mesh_enter",
        }
    }

    pub(super) const fn tcx(self) -> u32 {
        match self {
            Self::Leave => bpf_attach_type::BPF_TCX_INGRESS as u32,
            Self::Enter => bpf_attach_type::BPF_TCX_EGRESS as u32,
        }
    }
}

/// One attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Post {
    pub(super) netns_cookie: u64,
    /// Of the node's side.
    pub(super) ifindex: u32,
    pub(super) direction: Direction,
}

/// What is to be told of a pod's links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodLinks {
    /// Interfaces with the pod's addresses, or that lead out, without another end on this node.
    pub(crate) unguarded: Vec<String>,
    /// Guarded ones past whose guard a program may redirect.
    pub(crate) redirecting: Vec<String>,
    /// Addresses that are not the pod's, each with its interface.
    pub(crate) beside: Vec<(String, IpAddr)>,
}

impl Pins {
    pub(super) fn post(&self, post: Post) -> PathBuf {
        let (cookie, ifindex) = (post.netns_cookie, post.ifindex);
        self.link(&format!(
            "{POST}{cookie}-{ifindex}-{}",
            post.direction.program()
        ))
    }

    pub(super) fn posts(&self) -> Result<Vec<Post>, Error> {
        Ok(self
            .link_names()?
            .iter()
            .filter_map(|name| parse(name))
            .collect())
    }
}

const POST: &str = "guard-";

fn parse(name: &str) -> Option<Post> {
    let mut parts = name.strip_prefix(POST)?.splitn(3, '-');
    let mut part = || parts.next();
    let (cookie, ifindex, program) = (part()?, part()?, part()?);
    let mut directions = Direction::BOTH.into_iter();
    Some(Post {
        netns_cookie: cookie.parse().ok()?,
        ifindex: ifindex.parse().ok()?,
        direction: directions.find(|direction| direction.program() == program)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_names_its_post() {
        let post = Post {
            netns_cookie: 4711,
            ifindex: 12,
            direction: Direction::Enter,
        };
        assert_eq!(parse("guard-4711-12-mesh_enter"), Some(post));
        for other in [
            "netns-4711",
            "guard-4711-12-mesh_enter-new",
            "guard-x-1-mesh_leave",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
