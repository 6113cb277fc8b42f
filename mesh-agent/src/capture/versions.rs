//! Other versions of the agent, whose pins are beside ours.

use std::path::Path;

use super::{Capture, Error, LinkGuard, clsact, link_guard, links, pins};

impl Capture {
    /// Cookies of the namespaces that are there and that other versions of the
    /// agent hold.
    pub fn of_other_versions(&self) -> Result<Vec<u64>, Error> {
        let mut found = Vec::new();
        for (cookie, pin) in self.pins.pods_of_other_versions()? {
            if links::is_attached(&pin)? {
                found.push(cookie);
            }
        }
        Ok(found)
    }

    /// The pins of other versions of the agent, and with them their programs: when
    /// ours have taken their place, so that there is no moment without.
    pub fn remove_other_versions(&mut self) -> Result<(), Error> {
        for version in self.pins.other_versions()? {
            // First: their map is all that names them.
            self.settle_classifiers(&version)?;
            pins::remove_tree(&version)?;
        }
        Ok(())
    }

    /// Classifiers do not go with pins. One at a link of a pod that we hold stays
    /// until ours has its place, and is known as that pod's; all others go.
    fn settle_classifiers(&mut self, version: &Path) -> Result<(), Error> {
        let mut ours = self.links()?;
        let known = link_guard::entries(&ours)?;
        for (ifindex, cookie) in clsact::named(&pins::maps_of(version))? {
            if known.iter().any(|(known, _)| *known == ifindex) {
                continue;
            }
            if self.config.link_guard == LinkGuard::Off || !self.pods.contains_key(&cookie) {
                clsact::remove(ifindex)?;
            } else if clsact::is_at(ifindex)? {
                let inserted = ours.insert(ifindex, cookie, 0);
                inserted.map_err(link_guard::failed)?;
            }
        }
        Ok(())
    }
}
