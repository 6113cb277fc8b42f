//! Which requests a rate limit of a TrafficPolicy counts, as that is read.

use std::sync::Arc;

use super::reading::Reading;
use super::spec::RateLimitMatch;
use super::values::{MethodPattern, PathText};
use crate::discovery::tree::Node;
use crate::model::policy::{PathPattern, Pattern};
use crate::model::traffic::{Counts, RequestMatch};

const MAX: usize = 16;

impl Reading<'_, '_> {
    /// Whatever is wrong with it leaves no request out.
    pub(super) fn matching(&mut self, said: &Node<'_>, counts: Counts, at: &str) -> RequestMatch {
        let at = format!("{at}.match");
        if said.is_null() {
            return RequestMatch::default();
        }
        if counts == Counts::Connections {
            self.wrong(&at, "connections have no methods and paths");
            return RequestMatch::default();
        }
        let Some(said) = self.typed::<RateLimitMatch>(said, &at) else {
            return RequestMatch::default();
        };
        if said.methods.is_none() && said.paths.is_none() {
            self.wrong(&at, "needs methods or paths");
        }
        let methods = said
            .methods
            .map(|all| all.into_iter().map(|MethodPattern(text)| text));
        let paths = said
            .paths
            .map(|all| all.into_iter().map(|PathText(text)| text));
        let pattern = |text: &str| Pattern::parse(text).ok_or_else(|| "is no method".to_owned());
        let methods = self.patterns(methods, &format!("{at}.methods"), pattern);
        let paths = self.patterns(paths, &format!("{at}.paths"), PathPattern::parse);
        RequestMatch {
            methods: methods.unwrap_or_default(),
            paths: paths.unwrap_or_default(),
        }
    }

    /// Nothing said: none. `None`: they are wrong.
    fn patterns<T>(
        &mut self,
        said: Option<impl Iterator<Item = String>>,
        at: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Arc<[T]>> {
        let Some(texts) = said else {
            return Some(Arc::new([]));
        };
        let texts = self.set(texts.map(String::into_boxed_str), (at, MAX))?;
        if texts.is_empty() {
            self.wrong(at, "must not be empty");
        }
        let mut all = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(pattern) => all.push(pattern),
                Err(why) => self.wrong(&format!("{at}[{i}]"), why),
            }
        }
        (!all.is_empty() && all.len() == texts.len()).then(|| all.into())
    }
}
