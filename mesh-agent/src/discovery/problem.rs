//! What is wrong with the configuration, and where.

use std::fmt;

use super::origin::Origin;
use crate::model::text::printable;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Something is not in force as it is written: the node is degraded.
    Mistake,
    /// All is in force as it is understood; somebody may have meant more.
    Warning,
}

/// What kind of problem, for programs: stable, one word each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Code {
    /// The file cannot be read, or not as a whole.
    UnreadableFile,
    /// It is not YAML.
    Syntax,
    /// A kind or API version that is not served.
    UnknownKind,
    UnknownField,
    /// A value that is not understood, or contradicts another one.
    InvalidValue,
    /// A principal that no peer of this mesh can have.
    ImpossiblePrincipal,
    /// A Service that the configuration does not have.
    NoSuchService,
    /// A policy, or a PeerAuthentication, that is about no pod.
    SelectsNothing,
    /// A rule that asks for what is never known.
    NotDecided,
    /// A rule about requests, and a port that is declared to carry none.
    NotHttp,
    /// A principal, namespace or account that no pod has.
    NobodyIsThat,
    /// A port that the Service, or the pods, do not have.
    NoSuchPort,
    /// An object that has no effect where it is.
    Ignored,
    /// Another object of its kind holds instead.
    Shadowed,
    ServiceWithoutPods,
    EmptyDirectory,
    /// Of the warnings the least: it has no effect on the mesh.
    Advisory,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The one list of their names is that of JSON.
        serde::Serialize::serialize(self, f)
    }
}

impl Code {
    #[must_use]
    pub(crate) fn severity(self) -> Severity {
        match self {
            Self::UnreadableFile
            | Self::Syntax
            | Self::UnknownKind
            | Self::UnknownField
            | Self::InvalidValue
            | Self::ImpossiblePrincipal
            | Self::NoSuchService => Severity::Mistake,
            Self::SelectsNothing
            | Self::NotDecided
            | Self::NotHttp
            | Self::NobodyIsThat
            | Self::NoSuchPort
            | Self::Ignored
            | Self::Shadowed
            | Self::ServiceWithoutPods
            | Self::EmptyDirectory
            | Self::Advisory => Severity::Warning,
        }
    }

    /// Of a mistake that comes with no more than words.
    pub(super) fn of(message: &str) -> Self {
        match message.starts_with("unknown field") {
            true => Self::UnknownField,
            false => Self::InvalidValue,
        }
    }
}

/// One problem of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    #[serde(flatten)]
    pub(crate) origin: Origin,
    /// `Kind namespace/name`; empty where the document did not get that far.
    pub(crate) object: String,
    /// Path of the field, for example `spec.ports[0].port`.
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Problem {
    /// Of no object and no field yet.
    pub(super) fn new(code: Code, origin: Origin, message: String) -> Self {
        Self {
            code,
            origin,
            object: String::new(),
            field: String::new(),
            message,
        }
    }

    #[must_use]
    pub(crate) fn is_mistake(&self) -> bool {
        self.code.severity() == Severity::Mistake
    }
}

/// On one line, whatever the file, the object or the value is called.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.is_mistake() {
            f.write_str("warning: ")?;
        }
        if !self.object.is_empty() {
            write!(f, "{}: ", printable(&self.object))?;
        }
        if !self.field.is_empty() && self.field != "." {
            write!(f, "{}: ", printable(&self.field))?;
        }
        f.write_str(&printable(&self.message))
    }
}
