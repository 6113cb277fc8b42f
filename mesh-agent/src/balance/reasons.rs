//! Why a client gets these endpoints and no others, for people.

use super::endpoints::{Candidates, Distance};
use crate::model::Tier;
use crate::model::traffic::Prefer;

/// Of farther endpoints so many are named.
const NAMED: usize = 4;

impl Candidates<'_> {
    /// Which rule of the Service says that it is these.
    pub(crate) fn chosen_by(&self) -> Vec<String> {
        let mut rules = Vec::new();
        let name = &self.service.key;
        if self.keeps_to_node() {
            rules.push(format!(
                "internalTrafficPolicy of {name} is Local: only endpoints on the client's node are used"
            ));
        }
        let best = self.fitting().map(|(_, rank)| rank).min();
        if best.is_some_and(|(tier, _)| tier == Tier::Terminating) {
            rules.push(format!(
                "{name} has no ready endpoint: the last that serve while they end are used"
            ));
        }
        rules.extend(best.and_then(|(_, nearest)| self.preference(nearest)));
        rules.extend(self.spare());
        if let Some(lasts) = self.service.affinity {
            rules.push(format!(
                "sessionAffinity of {name}: a pod's connections go to one of these, until it makes none for {} s",
                lasts.as_secs()
            ));
        }
        rules
    }

    fn preference(&self, nearest: Distance) -> Option<String> {
        let (node, zone) = (self.client.node, self.client.zone);
        let name = &self.service.key;
        let is_said = match self.traffic().load_balancer.locality.prefer {
            Prefer::Hinted => false,
            Prefer::Node | Prefer::Zone => true,
            Prefer::Nothing => return None,
        };
        let by = match is_said {
            true => "locality",
            false => "hints",
        };
        match (nearest, zone) {
            // `internalTrafficPolicy` has said it.
            _ if self.keeps_to_node() => None,
            (Distance::Node, _) => {
                Some(format!("{by} of {name} prefer the client's node ({node})"))
            }
            (Distance::Zone, zone) => Some(format!(
                "{by} of {name} prefer the zone of the client's node ({})",
                zone.unwrap_or_default()
            )),
            (Distance::Far, _) if !is_said => None,
            (Distance::Far, Some(zone)) => Some(format!(
                "locality of {name}: no endpoint is in the zone of the client's node ({zone}), so all are alike"
            )),
            (Distance::Far, None) => Some(format!(
                "locality of {name} has no effect: nothing says which zone the client's node is in"
            )),
        }
    }

    /// Those that are used where the preferred ones are not enough.
    fn spare(&self) -> Option<String> {
        let count = self.farther().count();
        let named: Vec<_> = self.farther().take(NAMED).collect();
        let named: Vec<_> = named.iter().map(|one| one.addr.to_string()).collect();
        let more = match count > NAMED {
            true => ", ...",
            false => "",
        };
        let percent = self.traffic().load_balancer.locality.spill_over_percent;
        (count > 0).then(|| {
            format!(
                "{count} farther are used where too few of these work, or have {percent}% of the load of others: {}{more}",
                named.join(", ")
            )
        })
    }
}
