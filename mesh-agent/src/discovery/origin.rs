//! Where something of the configuration is from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::model::Name;
use crate::model::text::printable;

/// What is read, and is replaced, as a whole: a file, or one object of the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place(Inner);

/// There is one of each object: two words, and nothing of its own behind them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Inner {
    File(Arc<PathBuf>),
    /// An object of the API: where it is, with the last slash, and its name. Both are
    /// texts that others have, too.
    Resource(Name, Name),
}

impl Place {
    #[must_use]
    pub(crate) fn file(path: &Path) -> Self {
        Self(Inner::File(Arc::new(path.to_owned())))
    }

    /// An object of the API, by its path there.
    #[must_use]
    pub(crate) fn resource(path: &str) -> Self {
        let (folder, name) = path.split_at(path.rfind('/').map_or(0, |at| at + 1));
        Self::named(folder.into(), name.into())
    }

    /// The same, by the two parts of its path: up to the last slash, and behind it.
    pub(super) fn named(folder: Name, name: Name) -> Self {
        Self(Inner::Resource(folder, name))
    }

    #[must_use]
    pub(crate) fn is_file(&self) -> bool {
        self.as_file().is_some()
    }

    /// `None` for an object of the API.
    pub(super) fn as_file(&self) -> Option<&Path> {
        match &self.0 {
            Inner::File(path) => Some(path),
            Inner::Resource(..) => None,
        }
    }

    /// Namespace and name of an object of the API that has one.
    pub(super) fn namespaced(&self) -> Option<(&str, &str)> {
        let Inner::Resource(folder, name) = &self.0 else {
            return None;
        };
        let mut parts = folder.strip_suffix('/')?.rsplit('/');
        let (_plural, namespace) = (parts.next()?, parts.next()?);
        (parts.next() == Some("namespaces")).then_some((namespace, name))
    }

    /// The last part of its path.
    pub(super) fn name(&self) -> String {
        match &self.0 {
            Inner::File(path) => {
                let name = path.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }
            Inner::Resource(_, name) => name.to_string(),
        }
    }
}

/// On one line, whatever it is called.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::File(path) => f.write_str(&printable(&path.to_string_lossy())),
            Inner::Resource(folder, name) => {
                f.write_str(&printable(folder))?;
                f.write_str(&printable(name))
            }
        }
    }
}

/// A place, and where in it or which version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) place: Place,
    pub(super) at: At,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Line 0 is the place as a whole; column 0 is the document that begins there.
    Line {
        line: u32,
        column: u32,
    },
    Item(Box<ListItem>),
    /// `resourceVersion` of an object of the API.
    Version(Version),
}

/// In the document that begins at the line, which is a list: path of the item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListItem {
    line: u32,
    path: Box<str>,
}

/// `resourceVersion`. Clients are to take it for a text; it is kept as the number that
/// it always is so far, which needs no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Number(u64),
    Text(Name),
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let is_plain = is_plain && (text == "0" || !text.starts_with('0'));
        match text.parse() {
            Ok(number) if is_plain => Self::Number(number),
            _ => Self::Text(text.into()),
        }
    }
}

impl Version {
    /// None is said: it is the same as no other.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }

    /// `None` where it is no number.
    pub(super) fn as_number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

/// As it was told.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl Origin {
    /// A place as a whole.
    #[must_use]
    pub(crate) fn whole(place: Place) -> Self {
        Self::line(place, 0)
    }

    /// The document that begins at the line.
    pub(super) fn line(place: Place, line: u32) -> Self {
        let at = At::Line { line, column: 0 };
        Self { place, at }
    }

    /// One version of an object of the API.
    pub(super) fn version(place: Place, version: Version) -> Self {
        let at = At::Version(version);
        Self { place, at }
    }

    /// `None` for what is of a file.
    pub(super) fn api_version(&self) -> Option<&Version> {
        match &self.at {
            At::Version(version) => Some(version),
            At::Line { .. } | At::Item(_) => None,
        }
    }

    /// First line of the document, or the exact one; 0 is none.
    pub(super) fn first_line(&self) -> u32 {
        match &self.at {
            At::Line { line, .. } => *line,
            At::Item(item) => item.line,
            At::Version(_) => 0,
        }
    }

    /// Path of the object in the document, where that is a list.
    pub(super) fn item(&self) -> &str {
        match &self.at {
            At::Item(item) => &item.path,
            At::Line { .. } | At::Version(_) => "",
        }
    }

    /// Where there is no more than the beginning of the document.
    pub(super) fn is_document(&self) -> bool {
        match self.at {
            At::Line { line, column } => line != 0 && column == 0,
            At::Item(_) => true,
            At::Version(_) => false,
        }
    }

    /// By lines: the item of a list in the document that begins where this says.
    pub(super) fn with_item(&self, path: &str) -> Self {
        let at = match self.at {
            At::Line { .. } | At::Item(_) => At::Item(Box::new(ListItem {
                line: self.first_line(),
                path: path.into(),
            })),
            At::Version(ref version) => At::Version(version.clone()),
        };
        let place = self.place.clone();
        Self { place, at }
    }

    /// Exactly there: so many lines below the first one of the document.
    pub(super) fn exactly(&self, below: u32, column: u32) -> Self {
        let at = match self.at {
            At::Line { .. } | At::Item(_) => At::Line {
                line: self.first_line().saturating_add(below),
                column,
            },
            At::Version(ref version) => At::Version(version.clone()),
        };
        let place = self.place.clone();
        Self { place, at }
    }

    /// What begins at another line now; what is of no line stays.
    pub(super) fn moved(&self, from: u32, to: u32) -> Self {
        let mut moved = self.clone();
        let line = match &mut moved.at {
            At::Line { line, .. } => line,
            At::Item(item) => &mut item.line,
            At::Version(_) => return moved,
        };
        if *line != 0 {
            *line = line.saturating_add(to).saturating_sub(from);
        }
        moved
    }

    /// In the order of places and lines.
    pub(super) fn order(&self) -> (&Place, u32, u32) {
        let column = match self.at {
            At::Line { column, .. } => column,
            At::Item(_) | At::Version(_) => 0,
        };
        (&self.place, self.first_line(), column)
    }
}

/// `file:line:column`, or `resource (version N)`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let At::Version(version) = &self.at {
            return write!(f, " (version {})", printable(&version.to_string()));
        }
        let (_, line, column) = self.order();
        for number in [line, column].into_iter().filter(|number| *number > 0) {
            write!(f, ":{number}")?;
        }
        Ok(())
    }
}

/// Fields beside the others of a problem.
impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (_, line, column) = self.order();
        match (&self.place.0, &self.at) {
            (Inner::File(path), _) => {
                let mut fields = serializer.serialize_struct("Origin", 3)?;
                fields.serialize_field("file", path)?;
                fields.serialize_field("line", &line)?;
                fields.serialize_field("column", &column)?;
                fields.end()
            }
            (Inner::Resource(folder, name), at) => {
                let version = match at {
                    At::Version(version) => Some(version.to_string()),
                    At::Line { .. } | At::Item(_) => None,
                };
                let mut fields = serializer.serialize_struct("Origin", 2)?;
                fields.serialize_field("resource", &format_args!("{folder}{name}"))?;
                fields.serialize_field("version", &version)?;
                fields.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(origin: &Origin) -> String {
        serde_json::to_string(origin).expect("JSON")
    }

    #[test]
    fn a_file_is_told_with_line_and_column_as_far_as_they_are_known() {
        let file = Place::file(Path::new("/etc/a.yaml"));
        let document = Origin::line(file.clone(), 7);
        assert_eq!(Origin::whole(file.clone()).to_string(), "/etc/a.yaml");
        assert_eq!(document.to_string(), "/etc/a.yaml:7");
        assert_eq!(document.with_item("items[1]").to_string(), "/etc/a.yaml:7");
        assert_eq!(document.exactly(2, 5).to_string(), "/etc/a.yaml:9:5");
        assert_eq!(document.moved(7, 3).to_string(), "/etc/a.yaml:3");
        assert_eq!(
            json(&document.exactly(2, 5)),
            r#"{"file":"/etc/a.yaml","line":9,"column":5}"#
        );
    }

    #[test]
    fn an_object_of_the_api_is_told_with_its_version() {
        let place = Place::resource("/api/v1/namespaces/shop/pods/web-0");
        assert_eq!(place.name(), "web-0");
        assert_eq!(place.namespaced(), Some(("shop", "web-0")));
        assert_eq!(
            Place::resource("/api/v1/namespaces/shop").namespaced(),
            None
        );
        let origin = Origin::version(place, "1234".into());
        assert_eq!(
            origin.to_string(),
            "/api/v1/namespaces/shop/pods/web-0 (version 1234)"
        );
        assert_eq!(
            json(&origin),
            r#"{"resource":"/api/v1/namespaces/shop/pods/web-0","version":"1234"}"#
        );
        assert_eq!(origin.exactly(2, 5), origin, "it has no lines");
    }

    #[test]
    fn a_version_is_told_as_it_came() {
        for text in [
            "0",
            "1234",
            "18446744073709551615",
            "18446744073709551616",
            "007",
            "+7",
            "a1",
            "",
        ] {
            let version = Version::from(text);
            assert_eq!(version.to_string(), text);
            assert_eq!(version.is_empty(), text.is_empty());
        }
        assert_eq!(Version::from("1234").as_number(), Some(1234));
        assert_ne!(Version::from("7"), Version::from("007"));
    }
}
