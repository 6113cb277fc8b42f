//! One page that is made at most once at a time, whoever asks for it, in both of
//! its formats: who asks then costs no more than what is sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::Mutex;

use crate::observe::page;

/// A page is good for as many times what it cost to make: whatever is asked,
/// making it takes at most a fifth of one processor.
const REST: u32 = 4;

/// The page as it was last made.
#[derive(Clone, Debug)]
struct Made {
    begun: Instant,
    cost: Duration,
    page: Arc<Formats>,
}

/// The same page for old scrapers and for those that ask for OpenMetrics.
#[derive(Debug)]
pub(super) struct Formats {
    pub(super) openmetrics: Bytes,
    pub(super) text: Bytes,
}

impl Formats {
    fn of(openmetrics: String) -> Self {
        Self {
            text: page::to_text(&openmetrics).into(),
            openmetrics: openmetrics.into(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct SharedPage(Mutex<Option<Made>>);

impl SharedPage {
    /// Made after this was called, but for the short while above.
    pub(super) async fn get(
        &self,
        make: impl FnOnce() -> String + Send + 'static,
    ) -> Option<Arc<Formats>> {
        let asked = Instant::now();
        let mut made = self.0.lock().await;
        if let Some(made) = &*made
            && (made.begun >= asked || made.begun.elapsed() < made.cost * (REST + 1))
        {
            return Some(made.page.clone());
        }
        let begun = Instant::now();
        let work = move || Arc::new(Formats::of(make()));
        let page = tokio::task::spawn_blocking(work).await.ok()?;
        *made = Some(Made {
            begun,
            cost: begun.elapsed(),
            page: page.clone(),
        });
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_that_ask_at_once_get_one_page_and_who_asks_later_a_new_one() {
        let (page, made) = (
            Arc::new(SharedPage::default()),
            Arc::new(AtomicUsize::new(0)),
        );
        let ask = || {
            let (page, made) = (page.clone(), made.clone());
            async move {
                let make = move || {
                    std::thread::sleep(Duration::from_millis(5));
                    made.fetch_add(1, Ordering::Relaxed).to_string()
                };
                page.get(make).await.expect("a page")
            }
        };
        let all: tokio::task::JoinSet<_> = (0..50).map(|_| ask()).collect();
        all.join_all().await;
        let first = made.load(Ordering::Relaxed);
        assert!(first <= 2, "{first} pages for one moment");
        // Not synchronisation: only time makes the page too old.
        let cost = page.0.lock().await.as_ref().map(|made| made.cost);
        tokio::time::sleep(cost.expect("it was made") * (REST + 1)).await;
        ask().await;
        assert_eq!(made.load(Ordering::Relaxed), first + 1);
    }
}
