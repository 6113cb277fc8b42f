//! One object of the configuration.

use super::intern::Interner;
pub(super) use super::kinds::Kind;
use super::kinds::{Meta, Part, Parts, Unknown};
use super::origin::Origin;
use super::{Code, Problem};

/// One parsed object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) origin: Origin,
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
    /// Of core kinds: what of it cannot be understood. Policies say so themselves, but for
    /// which they are.
    pub(crate) unread: Parts,
}

impl Object {
    /// It stands for a policy of which it is not known which one it is.
    pub(super) fn is_guess(&self) -> bool {
        self.unread.contains(Part::Name)
    }

    pub(super) fn unknown(origin: &Origin, unknown: Unknown) -> Self {
        Self {
            origin: origin.clone(),
            meta: Meta::recovered(None, "?"),
            kind: Kind::Unknown(Box::new(unknown)),
            unread: Parts::default(),
        }
    }

    /// Takes the texts that objects have in common from `names`.
    pub(super) fn share(&mut self, names: &mut Interner) {
        self.meta.share(names);
        self.kind.share(names);
    }

    /// `Kind namespace/name`.
    #[must_use]
    pub(crate) fn name(&self) -> String {
        match self.kind.id() {
            Some(kind) => {
                let kind = kind.about().name;
                format!("{kind} {}/{}", self.meta.namespace(), self.meta.name)
            }
            None => format!("Unknown {}", self.origin),
        }
    }

    /// Of the kind that the message says.
    pub(super) fn problem(&self, field: &str, message: String) -> Problem {
        self.problem_of(Code::of(&message), field, message)
    }

    pub(super) fn problem_of(&self, code: Code, field: &str, message: String) -> Problem {
        Problem {
            object: self.name(),
            field: field.to_owned(),
            ..Problem::new(code, self.origin.clone(), message)
        }
    }
}
