//! Which requests a rate limit of a TrafficPolicy counts, as that is read.

use std::sync::Arc;

use super::reading::Reading;
use super::spec::RateLimitMatch;
use super::values::{MethodPattern, PathText};
use crate::model::policy::{PathPattern, Pattern};
use crate::model::traffic::RequestMatch;

const MAX: usize = 16;

impl Reading<'_, '_> {
    /// `None`: it is wrong.
    pub(super) fn matching(&mut self, said: RateLimitMatch, at: &str) -> Option<RequestMatch> {
        let at = format!("{at}.match");
        if said.methods.is_none() && said.paths.is_none() {
            self.wrong(&at, "needs methods or paths");
            return None;
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
        Some(RequestMatch {
            methods: methods?,
            paths: paths?,
        })
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
