//! Tasks of a runtime that take turns.

use std::future::pending;

use tokio::task::LocalSet;

use super::*;

/// Work of so long.
async fn busy(time: Duration, noted: Rc<RefCell<Vec<&'static str>>>, name: &'static str) {
    let until = Instant::now() + time;
    while Instant::now() < until {}
    noted.borrow_mut().push(name);
}

fn on_a_worker<F: Future>(what: impl FnOnce(Rc<Turns>) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let turns = Turns::new(Waited::default());
    LocalSet::new().block_on(&runtime.expect("a runtime"), async move {
        let dealing = turns.clone();
        tokio::task::spawn_local(async move { dealing.deal().await });
        what(turns).await
    })
}

#[test]
fn a_quiet_pod_goes_before_what_a_greedy_one_has_left() {
    let noted = Rc::<RefCell<Vec<_>>>::default();
    let waited = on_a_worker(async |turns: Rc<Turns>| {
        let (greedy, quiet) = (turns.join(), turns.join());
        let long = 2 * queue::SAVED;
        let tasks: Vec<_> = (0..20)
            .map(|_| by_turns(greedy.clone(), busy(long, noted.clone(), "greedy")))
            .chain([by_turns(
                quiet,
                busy(Duration::ZERO, noted.clone(), "quiet"),
            )])
            .map(tokio::task::spawn_local)
            .collect();
        for task in tasks {
            task.await.expect("it ends");
        }
        turns.waited.times.get()
    });
    let noted = noted.borrow();
    assert_eq!(noted.len(), 21);
    assert_eq!(noted[1], "quiet", "{noted:?}");
    assert_eq!(waited, 19);
}

#[test]
fn one_that_panics_or_is_dropped_keeps_none_of_its_pod() {
    on_a_worker(async |turns: Rc<Turns>| {
        let share = turns.join();
        let noted = Rc::<RefCell<Vec<_>>>::default();
        let task = |what: Pin<Box<dyn Future<Output = ()>>>| {
            tokio::task::spawn_local(by_turns(share.clone(), what))
        };
        let uses_all = task(Box::pin(busy(2 * queue::SAVED, noted.clone(), "first")));
        let dropped = task(Box::pin(pending()));
        let panics = task(Box::pin(async { panic!("on purpose") }));
        let last = task(Box::pin(busy(Duration::ZERO, noted.clone(), "last")));
        yield_now().await;
        dropped.abort();
        uses_all.await.expect("it ends");
        last.await.expect("it ends");
        assert!(panics.await.is_err_and(|error| error.is_panic()));
        assert!(dropped.await.is_err_and(|error| error.is_cancelled()));
    });
}

#[test]
fn nobody_waits_for_a_turn_where_none_is_greedy() {
    let waited = on_a_worker(async |turns: Rc<Turns>| {
        let noted = Rc::<RefCell<Vec<_>>>::default();
        for _ in 0..100 {
            let share = turns.join();
            let task = by_turns(share, busy(Duration::ZERO, noted.clone(), "one"));
            tokio::task::spawn_local(task).await.expect("it ends");
        }
        turns.waited.times.get()
    });
    assert_eq!(waited, 0);
}
