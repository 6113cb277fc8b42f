//! One object: how it is given, and what came of it.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::twice::Given;
use crate::discovery::kinds::Parts;
use crate::discovery::objects::Object;
use crate::model::{Name, Workload};

/// An object as it is given, and what was made of it.
#[derive(Debug, Default)]
pub(super) struct ObjectEntry {
    /// Those that count come first.
    pub(super) given: SmallVec<[Given; 1]>,
    /// The version that the indexes stand for; `None` before the first commit.
    pub(super) effective: Option<Arc<Object>>,
    /// It is given twice, and differently.
    pub(super) doubtful: bool,
    /// What two versions say differently of it.
    pub(super) contradicted: Parts,
    /// Addresses that it claims and does not get.
    pub(super) left_out: Box<[IpAddr]>,
    pub(super) made: Made,
}

/// What a pod comes to, before contested addresses are taken from it.
#[derive(Debug, Default)]
pub(super) enum Made {
    #[default]
    Nothing,
    /// It has the addresses of its node: which, where it is to be enrolled.
    OnHost(Option<Name>),
    Pod(Arc<Workload>),
}
