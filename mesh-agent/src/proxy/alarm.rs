//! What the data path cannot be without, and the word of its end.
//!
//! A panic costs its connection. Where it ends a worker's thread, or a listener's
//! loop, nobody serves that share of new connections any more: the agent ends then,
//! and whoever started it starts it again.

use tokio::sync::watch;

/// Given to whatever must not end by a panic.
#[derive(Clone, Debug)]
pub(super) struct Alarm(watch::Sender<Option<String>>);

/// Where the first end is told.
#[derive(Debug)]
pub(crate) struct PartEnded(watch::Receiver<Option<String>>);

impl Alarm {
    pub(super) fn new() -> (Self, PartEnded) {
        let (sender, receiver) = watch::channel(None);
        (Self(sender), PartEnded(receiver))
    }

    /// Held by what must not end by a panic.
    pub(super) fn guard(&self, what: impl Into<String>) -> Guard {
        Guard {
            what: what.into(),
            alarm: self.clone(),
        }
    }
}

impl PartEnded {
    /// Returns when something has ended by a panic, with its name. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> String {
        match self.0.wait_for(Option::is_some).await {
            Ok(what) => what.clone().unwrap_or_default(),
            // Nothing of the data path is left.
            Err(_) => "the data path".to_owned(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Guard {
    what: String,
    alarm: Alarm,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.alarm.0.send_if_modified(|told| {
            let first = told.is_none();
            if first {
                *told = Some(std::mem::take(&mut self.what));
            }
            first
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ended: &mut PartEnded) -> Option<String> {
        ended.0.borrow_and_update().clone()
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_told_and_one_that_ends_as_it_was_told_is_not() {
        let (alarm, mut ended) = Alarm::new();
        let well = alarm.guard("worker-0");
        std::thread::spawn(move || drop(well)).join().expect("well");
        assert_eq!(told(&mut ended), None);
        for name in ["worker-1", "worker-2"] {
            let guard = alarm.guard(name);
            let panicked = std::thread::spawn(move || {
                let _guard = guard;
                panic!("as the test wants it");
            });
            panicked.join().expect_err("a panic");
        }
        assert_eq!(ended.wait().await, "worker-1", "the first one");
    }

    #[tokio::test]
    async fn a_task_that_panics_is_told_though_its_thread_goes_on() {
        let (alarm, mut ended) = Alarm::new();
        let guard = alarm.guard("a listener");
        let task = tokio::spawn(async move {
            let _guard = guard;
            tokio::task::yield_now().await;
            panic!("as the test wants it");
        });
        task.await.expect_err("a panic");
        assert_eq!(ended.wait().await, "a listener");
    }
}
