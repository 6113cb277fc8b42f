//! A node's CNI configuration as text. Pure: our entry goes in and out, and every
//! other byte stays where it is.

use std::ops::Range;

use mesh_cni::{Entry, PLUGIN, is_supported};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The endings that container runtimes look at, in the order of their names.
const ENDINGS: [&str; 3] = [".conf", ".conflist", ".json"];
/// A network of this alone leads nowhere: some runtimes have one beside the true one.
const LOOPBACK: &str = "loopback";

pub(super) fn is_configuration(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn is_list(name: &str) -> bool {
    name.ends_with(".conflist")
}

/// Why a file is not for us to touch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it is no CNI configuration: {0}")]
    Unreadable(String),
    #[error("it has no plugin")]
    Empty,
    #[error("it is of version {0:?} of CNI, which has no chain, or which this agent does not know")]
    Version(String),
    #[error("it is a network of loopback alone")]
    Loopback,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(borrow)]
    plugins: Option<Vec<&'a RawValue>>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

/// A file that a runtime would use.
#[derive(Debug)]
pub(super) struct Network<'a> {
    text: &'a str,
    version: String,
    name: String,
    /// Where each plugin stands in the text; none of a file with a single one.
    plugins: Vec<Range<usize>>,
    kinds: Vec<String>,
}

impl<'a> Network<'a> {
    pub(super) fn read(name: &str, text: &'a str) -> Result<Self, Unfit> {
        let unreadable = |error: serde_json::Error| Unfit::Unreadable(error.to_string());
        let head: Head<'_> = serde_json::from_str(text).map_err(unreadable)?;
        let raw = match (is_list(name), head.plugins, &head.kind) {
            (true, Some(plugins), _) => plugins,
            (false, _, Some(_)) => Vec::new(),
            (true, None, _) | (false, _, None) => return Err(Unfit::Empty),
        };
        let kinds: Result<Vec<String>, _> = raw
            .iter()
            .map(|plugin| serde_json::from_str::<Kind>(plugin.get()).map(|found| found.kind))
            .chain(head.kind.filter(|_| !is_list(name)).map(Ok))
            .collect();
        let network = Self {
            text,
            version: head.version,
            name: head.name.unwrap_or_default(),
            plugins: raw.iter().map(|plugin| place(text, plugin.get())).collect(),
            kinds: kinds.map_err(unreadable)?,
        };
        network.fits()?;
        Ok(network)
    }

    fn fits(&self) -> Result<(), Unfit> {
        if self.others().next().is_none() {
            return Err(Unfit::Empty);
        }
        if self.others().all(|kind| kind == LOOPBACK) {
            return Err(Unfit::Loopback);
        }
        Ok(())
    }

    /// Could a plugin of ours be called in it?
    pub(super) fn may_chain(&self) -> Result<(), Unfit> {
        match is_supported(&self.version) {
            true => Ok(()),
            false => Err(Unfit::Version(self.version.clone())),
        }
    }

    /// The plugins that are not ours.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        let kinds = self.kinds.iter().map(String::as_str);
        kinds.filter(|kind| *kind != PLUGIN)
    }

    fn ours(&self) -> impl Iterator<Item = usize> + '_ {
        let kinds = self.kinds.iter().enumerate();
        kinds.filter_map(|(at, kind)| (kind == PLUGIN).then_some(at))
    }

    pub(super) fn has_ours(&self) -> bool {
        self.ours().next().is_some()
    }

    /// Is our entry as it would be written now?
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let is_same = |at: usize| {
            let text = &self.text[self.plugins[at].clone()];
            serde_json::from_str::<Entry>(text).is_ok_and(|found| found == *entry)
        };
        let ours: Vec<usize> = self.ours().collect();
        matches!(&ours[..], [one] if is_same(*one))
    }

    /// The list with our entry as its last plugin; of a single plugin a list of both.
    pub(super) fn with(&self, entry: &Entry) -> String {
        let ours = entry_text(entry);
        let Some(last) = self.plugins.last() else {
            return self.as_list(&ours);
        };
        let (head, tail) = self.text.split_at(last.end);
        let space = space_before(self.text, last.start);
        format!("{head},{space}{ours}{tail}")
    }

    /// The list without any entry of ours: of one that `with` made, what was there before.
    pub(super) fn without(&self) -> String {
        let mut text = self.text.to_owned();
        let ours: Vec<usize> = self.ours().collect();
        for at in ours.into_iter().rev() {
            let cut = match at.checked_sub(1) {
                Some(before) => self.plugins[before].end..self.plugins[at].end,
                // There is another one, or it would be no network.
                None => self.plugins[0].start..self.plugins[1].start,
            };
            text.replace_range(cut, "");
        }
        text
    }

    /// A runtime reads a single plugin as the list of it alone.
    fn as_list(&self, ours: &str) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (version, name) = (quoted(&self.version), quoted(&self.name));
        let own = self.text.trim();
        format!(
            "{{\n  \"cniVersion\": {version},\n  \"name\": {name},\n  \"plugins\": [\n    {own},\n    {ours}\n  ]\n}}\n"
        )
    }

    /// Is it the list that was made of this file with a single plugin?
    pub(super) fn is_made_of(&self, single: &str) -> bool {
        let others: Vec<&str> = self
            .plugins
            .iter()
            .zip(&self.kinds)
            .filter(|(_, kind)| *kind != PLUGIN)
            .map(|(at, _)| &self.text[at.clone()])
            .collect();
        others == [single.trim()]
    }
}

fn entry_text(entry: &Entry) -> String {
    // Paths and words: writing them cannot fail.
    serde_json::to_string(entry).unwrap_or_default()
}

/// A part of `text`, by its place there.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// As the plugin before is set off.
fn space_before(text: &str, at: usize) -> &str {
    let head = &text[..at];
    &head[head.trim_end().len()..]
}

/// The list that stands in the place of a file with a single plugin.
pub(super) fn list_name(name: &str) -> Option<String> {
    let stem = ENDINGS.iter().filter(|ending| **ending != ".conflist");
    let stem = stem.filter_map(|ending| name.strip_suffix(ending)).next()?;
    Some(format!("{stem}.conflist"))
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::*;

    fn entry() -> Entry {
        Entry::default()
    }

    fn parsed(text: &str) -> serde_json::Value {
        serde_json::from_str(text).expect("it is JSON still")
    }

    #[test]
    fn the_entry_comes_last_and_every_other_byte_stays() {
        for (name, text) in [
            ("10-kindnet.conflist", KINDNET),
            ("10-calico.conflist", CALICO),
            ("05-cilium.conflist", CILIUM),
            ("10-aws.conflist", AWS),
            ("10-flannel.conflist", FLANNEL),
            ("10-ptp.conflist", PTP),
            ("10-azure.conflist", AZURE),
            ("10-gke-ptp.conflist", GKE),
        ] {
            let before = Network::read(name, text).expect("a network");
            before.may_chain().expect("of a known version");
            assert!(!before.has_ours(), "{name}");
            let with = before.with(&entry());
            let after = Network::read(name, &with).expect("a network still");
            assert!(after.has(&entry()), "{with}");
            let (mut made, was) = (parsed(&with), parsed(text));
            let plugins = made["plugins"].as_array_mut().expect("plugins");
            let ours = plugins.pop().expect("ours");
            assert_eq!(ours["type"], PLUGIN);
            assert_eq!(made, was, "{name}: nothing else");
            assert_eq!(after.without(), text, "{name}: as it was");
        }
    }

    #[test]
    fn an_entry_of_another_agent_is_known_and_goes_wherever_it_stands() {
        let other = Entry {
            socket: "/elsewhere".into(),
            ..entry()
        };
        let network = Network::read("a.conflist", CALICO).expect("a network");
        let with = network.with(&other);
        let found = Network::read("a.conflist", &with).expect("a network");
        assert!(found.has_ours() && !found.has(&entry()) && found.has(&other));
        let ours = entry_text(&entry());
        for (text, left) in [
            (
                format!(r#"{{"plugins":[{ours}, {{"type":"a"}}]}}"#),
                r#"{"plugins":[{"type":"a"}]}"#,
            ),
            (
                format!(r#"{{"plugins":[{{"type":"a"}}, {ours} ,{ours}]}}"#),
                r#"{"plugins":[{"type":"a"}]}"#,
            ),
            (
                format!(r#"{{"plugins":[{{"type":"a"}},{ours},{{"type":"b"}} ]}}"#),
                r#"{"plugins":[{"type":"a"},{"type":"b"} ]}"#,
            ),
            (
                format!(r#"{{"plugins":[{ours},{{"type":"a"}},{ours}]}}"#),
                r#"{"plugins":[{"type":"a"}]}"#,
            ),
        ] {
            let network = Network::read("a.conflist", &text).expect("a network");
            assert!(network.has_ours());
            assert_eq!(network.without(), left, "{text}");
        }
    }

    #[test]
    fn a_single_plugin_becomes_a_list_with_the_same_name_and_version() {
        let name = "80-openshift-network.conf";
        let network = Network::read(name, OPENSHIFT).expect("a network");
        let text = network.with(&entry());
        let list = parsed(&text);
        assert_eq!(list["cniVersion"], "0.3.1");
        assert_eq!(list["name"], "openshift-sdn");
        assert_eq!(list["plugins"][0], parsed(OPENSHIFT));
        let list_name = list_name(name).expect("a name");
        assert_eq!(list_name, "80-openshift-network.conflist");
        let list = Network::read(&list_name, &text).expect("a network");
        assert!(list.has(&entry()) && list.is_made_of(OPENSHIFT));
        assert!(!list.is_made_of("{}") && !list.is_made_of(KINDNET));
        assert_eq!(super::list_name("10-a.conflist"), None);
        assert_eq!(
            super::list_name("10-a.json").as_deref(),
            Some("10-a.conflist")
        );
    }

    #[test]
    fn what_is_no_network_is_left_alone_and_says_why() {
        let of = |name: &str, text: &str| Network::read(name, text).err();
        for broken in [
            "",
            "{",
            "[]",
            r#"{"plugins":[],"plugins":[]}"#,
            r#"{"plugins":[{}]}"#,
        ] {
            assert!(
                matches!(of("a.conflist", broken), Some(Unfit::Unreadable(_))),
                "{broken}"
            );
        }
        assert_eq!(of("a.conflist", r#"{"plugins":[]}"#), Some(Unfit::Empty));
        assert_eq!(of("a.conflist", r#"{"type":"ptp"}"#), Some(Unfit::Empty));
        assert_eq!(
            of("a.conf", r#"{"plugins":[{"type":"a"}]}"#),
            Some(Unfit::Empty)
        );
        let alone = format!(r#"{{"plugins":[{}]}}"#, entry_text(&entry()));
        assert_eq!(
            of("a.conflist", &alone),
            Some(Unfit::Empty),
            "never the first"
        );
        let loopback = r#"{"cniVersion":"0.3.1","type":"loopback"}"#;
        assert_eq!(of("99-loopback.conf", loopback), Some(Unfit::Loopback));
        for version in ["", "0.2.0", "9.0.0"] {
            let text = format!(r#"{{"cniVersion":"{version}","plugins":[{{"type":"a"}}]}}"#);
            let network = Network::read("a.conflist", &text).expect("a network");
            assert_eq!(network.may_chain(), Err(Unfit::Version(version.to_owned())));
        }
        assert!(is_configuration("a.json") && !is_configuration("a.conflist.cilium_bak"));
    }
}
