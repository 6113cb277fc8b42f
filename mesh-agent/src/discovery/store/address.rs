//! Who has an address, and whether anybody may be sent there.

use std::net::IpAddr;

use super::claims::Use;
use super::entry::Made;
use super::id::ObjectId;
use super::state::Store;
use crate::discovery::kinds::TargetRef;
use crate::discovery::objects::Kind;
use crate::model::{ServiceKey, Withheld, WorkloadKey};

/// Which pod an address belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Nobody,
    One(WorkloadKey),
    /// Several have it, so none gets it.
    Contested(Vec<WorkloadKey>),
}

/// Whose address an endpoint is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The pod's that `by_ip` names, or nobody's that is named.
    Known,
    /// A pod is named that is not known, or does not have it.
    Unknown,
    /// Another pod's than is named.
    Other,
}

impl Store {
    pub(super) fn made(&self, key: &WorkloadKey) -> &Made {
        let entry = self.objects.get(&ObjectId::pod(key));
        entry.map_or(&Made::Nothing, |entry| &entry.made)
    }

    /// An address that two pods claim belongs to neither; but a pod that ends
    /// loses a contested address to those that do not.
    pub(super) fn holder(&self, ip: IpAddr) -> Holder {
        let ends = |key: &WorkloadKey| {
            let object = self.effective(&ObjectId::pod(key));
            object.is_some_and(|object| object.meta.ends)
        };
        let (leaving, staying): (Vec<_>, Vec<_>) = self.addresses.pods(ip).partition(ends);
        let mut holders = if staying.is_empty() { leaving } else { staying };
        match holders.len() {
            0 => Holder::Nobody,
            1 => holders.pop().map_or(Holder::Nobody, Holder::One),
            _ => Holder::Contested(holders),
        }
    }

    /// An address of a pod is never another's; else the first Service has it.
    pub(super) fn vip_holder(&self, ip: IpAddr) -> Option<ServiceKey> {
        match self.snapshot.by_ip.contains_key(&ip) {
            true => None,
            false => self.addresses.first(ip, Use::Vip),
        }
    }

    pub(super) fn owner(&self, ip: IpAddr, target: &TargetRef) -> Owner {
        let owner = self.snapshot.by_ip.get(&ip);
        match (target, owner) {
            (TargetRef::Pod(key), Some(owner)) if owner.key != *key => Owner::Other,
            (_, Some(_)) | (TargetRef::None, None) => Owner::Known,
            (TargetRef::Pod(key), None) if matches!(self.made(key), Made::OnHost(_)) => {
                Owner::Known
            }
            (TargetRef::Pod(_) | TargetRef::Unknown, None) => Owner::Unknown,
        }
    }

    /// Why no plaintext goes to an address, whoever has it by now. Whose it is
    /// by an object that counts, is not changed by one that cannot be read.
    pub(super) fn withheld(&self, ip: IpAddr) -> Option<Withheld> {
        if let Holder::Contested(pods) = self.holder(ip) {
            let is_enrolled = |key| match self.made(key) {
                Made::Pod(workload) => workload.is_enrolled(),
                Made::Nothing | Made::OnHost(_) => false,
            };
            if pods.iter().any(is_enrolled) {
                return Some(Withheld::Contested);
            }
        }
        if self.is_of_unknown_pod(ip) {
            return Some(Withheld::UnknownPod);
        }
        let is_unreadable =
            self.hidden.all.addresses.contains(&ip) || self.addresses.is_left_out(ip);
        (is_unreadable && !self.is_known(ip)).then_some(Withheld::Unreadable)
    }

    pub(super) fn is_known(&self, ip: IpAddr) -> bool {
        self.snapshot.by_ip.contains_key(&ip) || self.snapshot.by_vip.contains_key(&ip)
    }

    /// A slice may be here before its pods: they may be in the mesh.
    fn is_of_unknown_pod(&self, ip: IpAddr) -> bool {
        if self.snapshot.by_ip.contains_key(&ip) {
            return false;
        }
        self.addresses.slices(ip).any(|id| {
            let Some(Kind::EndpointSlice(slice)) = self.effective(&id).map(|o| &o.kind) else {
                return false;
            };
            let mut endpoints = slice.endpoints.iter();
            endpoints
                .any(|e| e.addresses.contains(&ip) && self.owner(ip, &e.target) == Owner::Unknown)
        })
    }
}
