//! What is wrong with the configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is not in force as it is written: the node is degraded.
    Mistake,
    /// All is in force as it is understood; somebody may have meant more.
    Warning,
}

/// What kind of problem, for programs: stable, one word each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The file cannot be read, or not as a whole.
    UnreadableFile,
    /// It is not YAML.
    Syntax,
    /// A kind or API version that is not served.
    UnknownKind,
    UnknownField,
    /// A value that is not understood, or contradicts another one.
    #[default]
    InvalidValue,
    /// Of the warnings the least: it has no effect on the mesh.
    Advisory,
}

impl Code {
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::UnreadableFile
            | Self::Syntax
            | Self::UnknownKind
            | Self::UnknownField
            | Self::InvalidValue => Severity::Mistake,
            Self::Advisory => Severity::Warning,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub code: Code,
    pub file: PathBuf,
    /// First line of the document, or the exact line where `column` is given; 0 is none.
    pub line: u64,
    /// 0 where only the document is known.
    pub column: u64,
    /// `Kind namespace/name`; empty where the document did not get that far.
    pub object: String,
    /// Path of the field, for example `spec.ports[0].port`.
    pub field: String,
    pub message: String,
}

impl Problem {
    #[must_use]
    pub fn is_mistake(&self) -> bool {
        self.code.severity() == Severity::Mistake
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if self.column > 0 {
            write!(f, "{}:", self.column)?;
        }
        f.write_str(" ")?;
        if !self.is_mistake() {
            f.write_str("warning: ")?;
        }
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        if !self.field.is_empty() && self.field != "." {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
