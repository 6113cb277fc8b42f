//! Faults that a TrafficPolicy asks for, as they are read.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fault_spec::{Abort as Said, Fault, From};
use super::reading::Reading;
use super::values::{Label, PrincipalName};
use crate::model::injection::{Abort, Callers, Injection, Principal};
use crate::model::{Name, grpc_status};

const MAX: usize = 16;

impl Reading<'_, '_> {
    pub(super) fn faults(&mut self, policy: &Name) -> Option<Arc<[Injection]>> {
        let list = self.list("faults", MAX)?;
        let mut names = BTreeSet::new();
        let mut faults = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let at = format!("spec.faults[{i}]");
            let said = self.typed::<Fault>(value, &at);
            let Some(fault) = said.and_then(|said| self.fault(said, &at, policy)) else {
                continue;
            };
            match names.insert(fault.name.clone()) {
                true => faults.push(fault),
                false => self.wrong(&format!("{at}.name"), "is another fault's name"),
            }
        }
        Some(faults.into())
    }

    fn fault(&mut self, said: Fault, at: &str, policy: &Name) -> Option<Injection> {
        let abort = match said.abort {
            None => None,
            Some(abort) => Some(self.abort(&abort, at)?),
        };
        if said.delay.is_none() && abort.is_none() {
            self.wrong(at, "needs delay or abort");
            return None;
        }
        let from = callers(said.from);
        if from.is_nobody() {
            let message = "names no caller: principals or namespaces";
            self.wrong(&format!("{at}.from"), message);
            return None;
        }
        let name: Name = said.name.0.into();
        Some(Injection {
            by: format!("{policy}/{name}").into(),
            name,
            from,
            percent: said.percent.map_or(100, |percent| percent.0),
            delay: said.delay.map(|time| time.0),
            abort,
            until: said.until.0,
        })
    }

    fn abort(&mut self, said: &Said, at: &str) -> Option<Abort> {
        let http = said.http_status.and_then(|code| u16::try_from(code.0).ok());
        let grpc = said.grpc_status.map(|status| status as u8);
        match (http, grpc) {
            (Some(http), Some(grpc)) => Some(Abort { http, grpc }),
            (Some(http), None) => Some(Abort {
                http,
                grpc: grpc_status::grpc_status(http),
            }),
            (None, Some(grpc)) => Some(Abort {
                http: grpc_status::http_status(grpc.into()),
                grpc,
            }),
            (None, None) => {
                self.wrong(&format!("{at}.abort"), "needs httpStatus or grpcStatus");
                None
            }
        }
    }
}

fn callers(said: From) -> Callers {
    let principal = |PrincipalName(text)| {
        // It was looked at: there is one.
        let at = text.find('/').unwrap_or(text.len());
        Principal {
            trust_domain: text[..at].into(),
            path: text[at..].into(),
        }
    };
    let principals = said.principals.unwrap_or_default().into_iter();
    let namespaces = said.namespaces.unwrap_or_default().into_iter();
    Callers {
        principals: principals.map(principal).collect(),
        namespaces: namespaces.map(|Label(name)| name.into()).collect(),
    }
}
