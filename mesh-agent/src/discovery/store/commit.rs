//! What follows from what has changed.
//!
//! In a fixed order, of which each step only adds to later ones: objects, pods,
//! addresses, Services, what is withheld, policies. So it ends, and each part
//! is made once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::address::Holder;
use super::claims::{self, Use};
use super::entry::Made;
use super::id::ObjectId;
use super::state::{Hidden, SERVICE_NAME, Step, Store, Touched};
use super::twice;
use crate::discovery::kinds::{ENROLLED, FactId, KindId, Nature, Part, TargetRef};
use crate::discovery::objects::{Kind, Object};
use crate::discovery::{Code, Problem};
use crate::model::policy::AuthorizationPolicy;
use crate::model::{Name, Service, ServiceKey, WorkloadKey};

impl Store {
    /// Makes the snapshot what the objects say. Its generation stays.
    pub(in crate::discovery) fn commit(&mut self, now: Instant) -> Touched {
        let before = self.snapshot.clone();
        self.forget_departed(now);
        if std::mem::take(&mut self.dirty.hidden) {
            self.hide();
        }
        for id in std::mem::take(&mut self.dirty.objects) {
            self.work += 1;
            self.settle(&id);
        }
        for (kind, namespace) in std::mem::take(&mut self.dirty.records) {
            self.work += 1;
            self.settle_records(kind, &namespace);
        }
        for key in std::mem::take(&mut self.dirty.pods) {
            self.work += 1;
            self.settle_pod(&key);
        }
        self.settle_on_host();
        for ip in &self.dirty.addresses {
            self.dirty.finished.extend(self.addresses.pods(*ip));
        }
        for key in std::mem::take(&mut self.dirty.finished) {
            self.finish(&key);
        }
        for ip in self.dirty.addresses.clone() {
            self.work += 1;
            self.settle_address(ip);
        }
        for key in std::mem::take(&mut self.dirty.services) {
            self.work += 1;
            self.settle_service(&key);
        }
        self.settle_virtual();
        for ip in std::mem::take(&mut self.dirty.addresses) {
            self.withhold(ip, &before, now);
        }
        for namespace in std::mem::take(&mut self.dirty.namespaces) {
            self.settle_policies(&namespace);
        }
        self.settle_routes();
        self.settle_traffic();
        self.settle_unreadable();
        let mut touched = std::mem::take(&mut self.dirty.touched);
        touched.problems = std::mem::take(&mut self.dirty.problems);
        touched
    }

    fn touch(&mut self, namespace: &Name) {
        let touched = &mut self.dirty.touched;
        touched.snapshot = true;
        if !touched.namespaces.contains(namespace) {
            touched.namespaces.insert(namespace.clone());
        }
    }

    /// Looks at everything, where what cannot be read is not what it was.
    fn hide(&mut self) {
        let mut hidden = Hidden::default();
        for object in self.unknown.values() {
            hidden.add(object);
        }
        if hidden == self.hidden {
            return;
        }
        let both = [&hidden, &self.hidden];
        let addresses = both.iter().flat_map(|h| &h.all.addresses);
        self.dirty.addresses.extend(addresses);
        self.hidden = hidden;
        self.dirty.objects.extend(self.objects.ids());
        self.dirty.touched.all = true;
    }

    /// One object: which of its versions holds, and what it says of others.
    fn settle(&mut self, id: &ObjectId) {
        let Some(entry) = self.objects.get_mut(id) else {
            return;
        };
        let resolved = twice::resolve(&entry.given);
        let before = entry.effective.take();
        entry.effective.clone_from(&resolved.effective);
        entry.resolve(resolved.doubtful, resolved.contradicted);
        let now = resolved.effective.as_deref();
        let uses = |object: Option<&Object>| object.map(claims::uses).unwrap_or_default();
        self.claim(id, &uses(before.as_deref()), &uses(now));
        self.settle_zones(before.as_deref(), now);
        let mut problems = resolved.problems;
        let mut left_out = resolved.left_out;
        left_out.extend(now.map(claims::left_out).unwrap_or_default());
        let before = before.as_deref();
        match id.kind.nature() {
            Nature::Record => {
                let records = (id.kind, id.namespace.clone());
                self.dirty.records.insert(records);
            }
            Nature::Fact(fact) => {
                let is_doubtful = resolved.doubtful;
                problems.extend(self.settle_fact(id, fact, (before, now), is_doubtful));
            }
            Nature::Policy => {
                self.dirty.namespaces.insert(id.namespace.clone());
                // What is told of it may be of another file now.
                let touched = &mut self.dirty.touched.namespaces;
                touched.insert(id.namespace.clone());
            }
        }
        // That of a pod follows from what is made of it, too.
        if id.kind != KindId::Pod {
            self.leave_out(id, left_out);
        }
        self.tell(id, Step::Given, problems);
        if now.is_none() && !matches!(id.kind, KindId::Pod) {
            self.objects.remove(id);
        }
    }

    /// What it says of others.
    fn settle_fact(
        &mut self,
        id: &ObjectId,
        fact: FactId,
        (before, now): (Option<&Object>, Option<&Object>),
        is_doubtful: bool,
    ) -> Option<Problem> {
        match fact {
            FactId::Namespace => {
                self.settle_namespace(id, before, now);
                self.settle_open(id, now);
            }
            FactId::Pod => {
                self.dirty.pods.insert(id.workload_key());
            }
            FactId::EndpointSlice => return self.settle_slice(id, before, now, is_doubtful),
            FactId::Service => {
                let key = id.service_key();
                // A policy may be for it, and it may be gone.
                self.dirty.externals.extend(externals(before, now));
                self.settle_node_ports(&key, before, now);
                self.dirty.services.insert(key);
            }
            FactId::GRPCRoute | FactId::HTTPRoute | FactId::TLSRoute | FactId::TCPRoute => {
                self.settle_route(id, before, now);
            }
            FactId::TrafficPolicy | FactId::XBackendTrafficPolicy => {
                self.settle_traffic_policy(id, before, now);
            }
        }
        None
    }

    fn settle_node_ports(
        &mut self,
        key: &ServiceKey,
        before: Option<&Object>,
        now: Option<&Object>,
    ) {
        for port in before.into_iter().flat_map(claims::node_ports) {
            let is_empty = self.node_ports.get_mut(&port).is_some_and(|services| {
                services.remove(key);
                services.is_empty()
            });
            if is_empty {
                self.node_ports.remove(&port);
            }
            self.dirty.node_ports.insert(port);
        }
        for port in now.into_iter().flat_map(claims::node_ports) {
            let services = self.node_ports.entry(port).or_default();
            services.insert(key.clone());
            self.dirty.node_ports.insert(port);
        }
    }

    fn settle_zones(&mut self, before: Option<&Object>, now: Option<&Object>) {
        for node in self.zones.change(before, now) {
            let mut zone = self.zones.of(&node).cloned();
            if self.snapshot.zones.get(&node) != zone.as_ref() {
                zone.iter_mut().for_each(|zone| self.names.share(zone));
                self.snapshot.zones.set(node, zone);
                self.dirty.touched.snapshot = true;
            }
        }
    }

    fn claim(&mut self, id: &ObjectId, before: &[(IpAddr, Use)], now: &[(IpAddr, Use)]) {
        for (ip, what) in before {
            if !now.contains(&(*ip, *what)) {
                self.addresses.remove(*ip, *what, id);
            }
        }
        for (ip, what) in now {
            self.addresses.add(*ip, *what, id);
        }
        let both = before.iter().chain(now);
        self.dirty.addresses.extend(both.map(|(ip, _)| *ip));
    }

    /// Other addresses than before that it claims and does not get.
    fn leave_out(&mut self, id: &ObjectId, now: BTreeSet<IpAddr>) {
        let Some(entry) = self.objects.get_mut(id) else {
            return;
        };
        let before = entry.leave_out(now.iter().copied().collect());
        if before.is_empty() && now.is_empty() {
            return;
        }
        let what = Use::LeftOut(id.kind);
        let with = |ips: &mut dyn Iterator<Item = IpAddr>| ips.map(|ip| (ip, what)).collect();
        let before: Vec<_> = with(&mut before.into_iter());
        let now: Vec<_> = with(&mut now.into_iter());
        self.claim(id, &before, &now);
    }

    fn settle_namespace(&mut self, id: &ObjectId, before: Option<&Object>, now: Option<&Object>) {
        let says = |object: Option<&Object>| {
            object.map(|o| (o.meta.labels.clone(), o.meta.annotations.clone(), o.unread))
        };
        if says(before) != says(now) {
            let pods = self.entries(KindId::Pod, &id.name);
            let pods: Vec<WorkloadKey> = pods.map(|(id, _)| id.workload_key()).collect();
            self.dirty.pods.extend(pods);
        }
    }

    fn settle_open(&mut self, id: &ObjectId, now: Option<&Object>) {
        let is_open = now.is_some_and(|namespace| {
            let label = namespace.meta.labels.get(ENROLLED);
            let enrols_nobody = matches!(label.map(String::as_str), None | Some("false"));
            enrols_nobody && !namespace.unread.contains(Part::Labels)
        });
        if is_open == self.snapshot.open_namespaces.contains(&id.name) {
            return;
        }
        let open = Arc::make_mut(&mut self.snapshot.open_namespaces);
        match is_open {
            true => open.insert(id.name.clone()),
            false => open.remove(&id.name),
        };
        self.dirty.touched.snapshot = true;
    }

    /// Whose slice it is, and whether that can be told.
    fn settle_slice(
        &mut self,
        id: &ObjectId,
        before: Option<&Object>,
        now: Option<&Object>,
        is_doubtful: bool,
    ) -> Option<Problem> {
        let (old, new) = (service_name(before), service_name(now));
        let mut keys = [old, new].map(|name| {
            name.map(|name| ServiceKey {
                namespace: id.namespace.clone(),
                name: self.names.name(name),
            })
        });
        if let Some(key) = keys[0].take() {
            let is_empty = self.slices.get_mut(&key).is_some_and(|slices| {
                slices.remove(&id.name);
                slices.is_empty()
            });
            if is_empty {
                self.slices.remove(&key);
            }
            self.dirty.services.insert(key);
        }
        if let Some(key) = keys[1].take() {
            self.slices
                .entry(key.clone())
                .or_default()
                .insert(id.name.clone());
            self.dirty.services.insert(key);
        }
        let is_nobodys = now.filter(|_| new.is_none());
        let is_unread = |object: &&Object| object.unread.contains(Part::Labels);
        let was_any = !self.doubtful_slices.is_empty();
        match is_doubtful || is_nobodys.is_some_and(|object| is_unread(&object)) {
            true => self.doubtful_slices.insert(id.clone()),
            false => self.doubtful_slices.remove(id),
        };
        if was_any == self.doubtful_slices.is_empty() {
            self.look_at_all_without_selector();
        }
        let object = is_nobodys.filter(|object| !is_unread(object))?;
        let message = format!("the label {SERVICE_NAME} is missing: it names the Service");
        Some(object.problem_of(Code::Advisory, "metadata.labels", message))
    }

    /// What is behind these only slices say, and one may be of any.
    fn look_at_all_without_selector(&mut self) {
        let services = self.all_of(KindId::Service).filter_map(|(id, entry)| {
            let Kind::Service(spec) = &entry.effective.as_ref()?.kind else {
                return None;
            };
            spec.selector.is_empty().then(|| id.service_key())
        });
        let services: Vec<ServiceKey> = services.collect();
        self.dirty.services.extend(services);
    }

    fn settle_pod(&mut self, key: &WorkloadKey) {
        let id = ObjectId::pod(key);
        let mut made = self.make_pod(key);
        if let Made::Pod(workload) = &mut made.made {
            let workload = Arc::make_mut(workload);
            self.names.share(&mut workload.app);
            self.names.share(&mut workload.service_account);
            self.names.share_on_node(&mut workload.on_node);
        }
        let Some(entry) = self.objects.get_mut(&id) else {
            return;
        };
        // The snapshot keeps what is as it was: one copy for both.
        if let (Made::Pod(before), Made::Pod(now)) = (&entry.made, &mut made.made)
            && before == now
        {
            now.clone_from(before);
        }
        let before = std::mem::replace(&mut entry.made, made.made);
        let others = twice::resolve(&entry.given).left_out;
        let is_given = entry.effective.is_some();
        let was_on_host = matches!(before, Made::OnHost(_));
        if was_on_host != matches!(entry.made, Made::OnHost(_)) {
            self.dirty.on_host.insert(key.clone());
        }
        let workloads = [&before, &entry.made].map(|made| match made {
            Made::Pod(workload) => Some(workload.clone()),
            Made::Nothing | Made::OnHost(_) => None,
        });
        // Also where it is the same: that it ends, or is ready, is not in it.
        for workload in workloads.iter().flatten() {
            let services = self.services_selecting(workload);
            self.dirty.services.extend(services);
        }
        let uses = workloads.map(|workload| {
            let ips = workload.map(|w| w.ips.iter().collect::<Vec<_>>());
            let ips = ips.unwrap_or_default().into_iter();
            ips.map(|ip| (ip, Use::Pod)).collect::<Vec<_>>()
        });
        self.claim(&id, &uses[0], &uses[1]);
        self.leave_out(&id, made.left_out.into_iter().chain(others).collect());
        self.note_asked_on_host(key);
        self.tell(&id, Step::Made, made.problems);
        self.settle_deny(key, made.deny);
        let was_unreadable = match made.is_unreadable {
            true => !self.unreadable_pods.insert(key.clone()),
            false => self.unreadable_pods.remove(key),
        };
        if was_unreadable != made.is_unreadable {
            // Policies for a Service are about any of its ports.
            self.touch(&key.namespace);
        }
        self.dirty.finished.insert(key.clone());
        if !is_given {
            self.objects.remove(&id);
        }
    }

    fn settle_deny(&mut self, key: &WorkloadKey, deny: Option<AuthorizationPolicy>) {
        let before = match deny {
            Some(deny) => self.denies.insert(key.clone(), Arc::new(deny)),
            None => self.denies.remove(key),
        };
        if before.as_ref() != self.denies.get(key) {
            self.dirty.namespaces.insert(key.namespace.clone());
        }
    }

    /// Endpoints that name a pod of which it is known now that it has its
    /// node's addresses, or not any more. Rare, so all are looked at.
    fn settle_on_host(&mut self) {
        let pods = std::mem::take(&mut self.dirty.on_host);
        if pods.is_empty() {
            return;
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for (_, entry) in self.all_of(KindId::EndpointSlice) {
            let kind = entry.effective.as_ref().map(|object| &object.kind);
            let Some(Kind::EndpointSlice(slice)) = kind else {
                continue;
            };
            for endpoint in &slice.endpoints {
                if matches!(&endpoint.target, TargetRef::Pod(key) if pods.contains(key)) {
                    addresses.extend(&endpoint.addresses);
                }
            }
        }
        self.dirty.addresses.extend(addresses);
    }

    /// A pod with the addresses that are its own alone.
    fn finish(&mut self, key: &WorkloadKey) {
        let workload = self.finish_pod(key);
        let before = self.snapshot.workloads.get(key);
        if before == workload.as_ref() {
            return;
        }
        let both: Vec<_> = before.into_iter().chain(&workload).cloned().collect();
        for workload in both {
            self.dirty.addresses.extend(workload.ips.iter());
            // Another one's claim may be all that changed.
            let services = self.services_selecting(&workload);
            self.dirty.services.extend(services);
        }
        match workload {
            Some(workload) => self.snapshot.workloads.insert(workload),
            None => self.snapshot.workloads.remove(key),
        };
        self.touch(&key.namespace);
    }

    /// Who has it, and whose endpoint it is.
    fn settle_address(&mut self, ip: IpAddr) {
        let workload = match self.holder(ip) {
            Holder::One(key) => self.snapshot.workloads.get(&key).cloned(),
            Holder::Nobody | Holder::Contested(_) => None,
        };
        if self.snapshot.by_ip.get(&ip) != workload.as_ref() {
            self.snapshot.by_ip.set(ip, workload);
            self.dirty.touched.snapshot = true;
        }
        let node = self.addresses.is_nodes(ip).then_some(());
        if self.snapshot.nodes.get(&ip) != node.as_ref() {
            self.snapshot.nodes.set(ip, node);
            self.dirty.touched.snapshot = true;
        }
        let services: Vec<ServiceKey> = self.addresses.services(ip).collect();
        self.dirty.services.extend(services);
        let slices: Vec<ObjectId> = self.addresses.slices(ip).collect();
        for id in slices {
            let labels = self.effective(&id).map(|object| &object.meta.labels);
            let Some(name) = labels.and_then(|labels| labels.get(SERVICE_NAME)) else {
                continue;
            };
            let name = name.clone();
            self.dirty.services.insert(ServiceKey {
                namespace: id.namespace,
                name: self.names.name(&name),
            });
        }
    }

    fn settle_service(&mut self, key: &ServiceKey) {
        let (service, problems) = self.make_service(key);
        self.tell(&ObjectId::service(key), Step::Made, problems);
        let before = self.snapshot.services.get(key);
        // Which pods are behind it may differ all the same.
        self.dirty.touched.namespaces.insert(key.namespace.clone());
        if before == service.as_ref() {
            return;
        }
        if doors(before) != doors(service.as_ref()) && self.referring.has_routes(key) {
            self.dirty.touched.routed.insert(key.clone());
        }
        let both = before.into_iter().chain(&service);
        let vips: Vec<IpAddr> = both.flat_map(|s| s.vips.iter().copied()).collect();
        self.dirty.vips.extend(vips);
        let object = self.effective(&ObjectId::service(key));
        let externals: Vec<_> = externals(None, object.map(|o| &**o)).collect();
        let node_ports = object.map(|object| claims::node_ports(object).collect::<Vec<_>>());
        self.dirty.externals.extend(externals);
        self.dirty.node_ports.extend(node_ports.unwrap_or_default());
        match service {
            Some(service) => self.snapshot.services.insert(service),
            None => self.snapshot.services.remove(key),
        };
        self.touch(&key.namespace);
    }

    /// The addresses of Services that changed.
    fn settle_virtual(&mut self) {
        for ip in std::mem::take(&mut self.dirty.vips) {
            let service = self.vip_holder(ip);
            let service = service.and_then(|key| self.snapshot.services.get(&key).cloned());
            self.snapshot.by_vip.set(ip, service);
            self.dirty.addresses.insert(ip);
            self.dirty.touched.snapshot = true;
        }
        for (ip, port) in std::mem::take(&mut self.dirty.externals) {
            let service = self.addresses.first(ip, Use::External(port));
            let service = service.and_then(|key| self.snapshot.services.get(&key).cloned());
            if self.snapshot.by_external.get(&(ip, port)) != service.as_ref() {
                self.snapshot.by_external.set((ip, port), service);
                self.dirty.touched.snapshot = true;
            }
        }
        for port in std::mem::take(&mut self.dirty.node_ports) {
            let services = self.node_ports.get(&port);
            let first = services.and_then(|services| services.first());
            let service = first.and_then(|key| self.snapshot.services.get(key).cloned());
            if self.snapshot.by_node_port.get(&port) != service.as_ref() {
                self.snapshot.by_node_port.set(port, service);
                self.dirty.touched.snapshot = true;
            }
        }
    }

    fn settle_policies(&mut self, namespace: &Name) {
        for kind in KindId::policies() {
            let mut policies: Vec<Kind> = Vec::new();
            if kind == KindId::AuthorizationPolicy {
                let of = self.denies.values();
                let denies = of.filter(|deny| deny.namespace == *namespace).cloned();
                let denies = denies.map(|deny| Box::new(Arc::unwrap_or_clone(deny)));
                policies.extend(denies.map(Kind::AuthorizationPolicy));
            }
            for (_, entry) in self.entries(kind, namespace) {
                for object in twice::versions(&entry.given) {
                    let mut policy = object.kind.clone();
                    if let Some(why) = twice::doubt(entry.is_doubtful()) {
                        policy.fail_closed(why);
                    }
                    policies.push(policy);
                }
            }
            if kind.publish(&mut self.snapshot, namespace, policies) {
                self.touch(namespace);
            }
        }
    }

    fn settle_unreadable(&mut self) {
        let hidden = &self.hidden.all;
        let pods = || self.unreadable_pods.union(&hidden.pods);
        let is_same = pods().eq(self.snapshot.unreadable_pods.iter());
        if !is_same {
            self.snapshot.unreadable_pods = Arc::new(pods().cloned().collect());
            self.dirty.touched.snapshot = true;
        }
        let now = (hidden.hides_pods, hidden.hides_addresses);
        if now != (self.snapshot.hides_pods, self.snapshot.hides_addresses) {
            (self.snapshot.hides_pods, self.snapshot.hides_addresses) = now;
            self.dirty.touched.snapshot = true;
        }
    }
}

fn service_name(slice: Option<&Object>) -> Option<&str> {
    slice?.meta.labels.get(SERVICE_NAME).map(String::as_str)
}

/// What of a Service its routes go by.
fn doors(service: Option<&Arc<Service>>) -> Option<(bool, Vec<(u16, &str)>)> {
    let service = service?;
    let ports = service.ports.iter().map(|port| (port.port, &*port.name));
    Some((service.is_headless(), ports.collect()))
}

/// Which ports of which addresses a Service has, or had.
fn externals<'o>(
    before: Option<&'o Object>,
    now: Option<&'o Object>,
) -> impl Iterator<Item = (IpAddr, u16)> + use<'o> {
    let of = |object: &'o Object| claims::uses(object).into_iter();
    let uses = [before, now].into_iter().flatten().flat_map(of);
    uses.filter_map(|(ip, what)| match what {
        Use::External(port) => Some((ip, port)),
        _ => None,
    })
}
