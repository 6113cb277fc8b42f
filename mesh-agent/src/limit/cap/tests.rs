use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

#[test]
fn there_are_never_more_than_may_be_whoever_asks() {
    let (cap, inside) = (Cap::default(), AtomicU32::new(0));
    let stay = || {
        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
        std::hint::spin_loop();
        inside.fetch_sub(1, Ordering::SeqCst);
        cap.leave();
    };
    let asking = |source: u64| {
        for _ in 0..10_000 {
            if cap.enter(3) {
                stay();
            } else if source > 1
                && let Some(number) = cap.wait(3, 2, source)
            {
                let mut turns = 0;
                while !cap.has_place(number) && turns < 50 {
                    turns += 1;
                    std::thread::yield_now();
                }
                match cap.has_place(number) {
                    true => stay(),
                    false => cap.forget(number),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for source in 0..4 {
            scope.spawn(move || asking(source));
        }
    });
    assert_eq!(cap.count(), 0);
    assert_eq!([(); 3].map(|()| cap.enter(2)), [true, true, false]);
    cap.leave();
    assert!(cap.enter(2));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter,
    Wait(WaiterOf),
    Leave,
    Forget(usize),
    Limit(u32),
    Allow(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Enter),
        6 => (0_u64..3).prop_map(Step::Wait),
        3 => Just(Step::Leave),
        2 => (0_usize..12).prop_map(Step::Forget),
        1 => (1_u32..4).prop_map(Step::Limit),
        1 => (1_u32..4).prop_map(Step::Allow),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Waits,
    HasPlace,
    Evicted,
}

const ROOM: usize = 4;

/// Who is there, and who waits: whose turn it is comes first.
#[derive(Default)]
struct Model {
    there: u32,
    turns: VecDeque<(WaiterOf, VecDeque<usize>)>,
    how: BTreeMap<usize, How>,
}

impl Model {
    fn waiting(&self) -> usize {
        self.turns.iter().map(|(_, of)| of.len()).sum()
    }

    fn hand_over(&mut self, most: u32) {
        while self.there < most
            && let Some((source, mut of)) = self.turns.pop_front()
        {
            let who = of.pop_front().expect("none is empty");
            self.how.insert(who, How::HasPlace);
            self.there += 1;
            if !of.is_empty() {
                self.turns.push_back((source, of));
            }
        }
    }

    /// False: there is no room for it.
    fn wait(&mut self, who: usize, source: WaiterOf) -> bool {
        if self.waiting() >= ROOM {
            let own = self.turns.iter().find(|(other, _)| *other == source);
            let own = own.map_or(0, |(_, of)| of.len());
            let most = self.turns.iter().map(|(_, of)| of.len()).max().unwrap_or(0);
            if most <= own + 1 {
                return false;
            }
            // Of more than one with as many it is the one with the highest number.
            let greedy = self.turns.iter_mut().filter(|(_, of)| of.len() == most);
            let (_, of) = greedy.max_by_key(|(source, _)| *source).expect("one");
            let last = of.pop_back().expect("more than one");
            self.how.insert(last, How::Evicted);
        }
        match self.turns.iter_mut().find(|(other, _)| *other == source) {
            Some((_, of)) => of.push_back(who),
            None => self.turns.push_back((source, [who].into())),
        }
        self.how.insert(who, How::Waits);
        true
    }

    fn forget(&mut self, who: usize, most: u32) {
        if self.how.remove(&who) == Some(How::HasPlace) {
            self.there -= 1;
            self.hand_over(most);
        }
        self.turns
            .iter_mut()
            .for_each(|(_, of)| of.retain(|other| *other != who));
        self.turns.retain(|(_, of)| !of.is_empty());
    }
}

fn how(cap: &Cap, number: Number) -> How {
    match cap.poll(number, &mut Context::from_waker(Waker::noop())) {
        Poll::Pending => How::Waits,
        Poll::Ready(Ok(())) => How::HasPlace,
        Poll::Ready(Err(Evicted)) => How::Evicted,
    }
}

proptest! {
    #[test]
    fn sources_come_in_turn_and_as_soon_as_there_is_a_place(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let (cap, mut model) = (Cap::default(), Model::default());
        let (mut most, mut known) = (2, 2);
        let mut numbers = BTreeMap::new();
        for (who, step) in steps.into_iter().enumerate() {
            match step {
                Step::Limit(now) => most = now,
                Step::Allow(now) => {
                    most = now;
                    if model.waiting() > 0 {
                        known = now;
                    }
                    cap.allow(now);
                    model.hand_over(known);
                }
                Step::Enter => {
                    let may = model.waiting() == 0 && model.there < most;
                    prop_assert_eq!(cap.enter(most), may);
                    model.there += u32::from(may);
                }
                Step::Wait(source) => {
                    known = most;
                    model.hand_over(known);
                    let waits = model.wait(who, source);
                    model.hand_over(known);
                    let number = cap.wait(most, u32::try_from(ROOM).expect("a few"), source);
                    prop_assert_eq!(number.is_some(), waits);
                    numbers.extend(number.map(|number| (who, number)));
                }
                Step::Leave if model.there > 0 => {
                    cap.leave();
                    model.there -= 1;
                    model.hand_over(known);
                    // Who leaves may be one that has waited: it is known no more.
                    let placed = numbers.keys().find(|who| model.how[who] == How::HasPlace);
                    if let Some(who) = placed.copied() {
                        numbers.remove(&who);
                    }
                }
                Step::Leave => {}
                Step::Forget(at) => {
                    if let Some((who, number)) = numbers.iter().nth(at).map(|(a, b)| (*a, *b)) {
                        numbers.remove(&who);
                        cap.forget(number);
                        model.forget(who, known);
                    }
                }
            }
            prop_assert_eq!(cap.count(), model.there);
            for (who, number) in &numbers {
                prop_assert_eq!(how(&cap, *number), model.how[who]);
            }
        }
    }
}

#[test]
fn however_many_of_one_source_wait_another_one_is_next_but_one() {
    let cap = Cap::default();
    assert!(cap.enter(1));
    let many: Vec<_> = (0..10).map_while(|_| cap.wait(1, 10, 1)).collect();
    assert_eq!(many.len(), 10);
    assert_eq!(cap.wait(1, 10, 1), None, "there is no room");
    let quiet = cap
        .wait(1, 10, 2)
        .expect("room that another one has too much of");
    assert_eq!(how(&cap, many[9]), How::Evicted, "the last one");
    cap.leave();
    assert_eq!(
        [many[0], quiet].map(|n| how(&cap, n)),
        [How::HasPlace, How::Waits]
    );
    cap.leave();
    assert_eq!(
        [quiet, many[1]].map(|n| how(&cap, n)),
        [How::HasPlace, How::Waits]
    );
    // And who has been told is forgotten; the first one has left.
    let rest = many.into_iter().skip(1).chain([quiet]);
    rest.for_each(|number| cap.forget(number));
    assert_eq!(cap.count(), 0);
    assert!(cap.enter(1));
}

#[test]
fn who_gets_a_place_or_loses_its_room_is_woken_and_nobody_else() {
    struct Count(AtomicU32);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let cap = Cap::default();
    assert!(cap.enter(1));
    let numbers = [(); 4].map(|()| cap.wait(1, 4, 1).expect("room"));
    let woken = [(); 4].map(|()| Arc::new(Count(AtomicU32::new(0))));
    for (number, count) in numbers.iter().zip(&woken) {
        let waker = Waker::from(count.clone());
        let polled = cap.poll(*number, &mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Pending);
    }
    let counts = || woken.each_ref().map(|count| count.0.load(Ordering::SeqCst));
    cap.leave();
    assert_eq!(counts(), [1, 0, 0, 0]);
    assert_eq!(how(&cap, numbers[0]), How::HasPlace);
    assert!(!cap.enter(1), "it is the first one's");
    let _two = [(); 2].map(|()| cap.wait(1, 4, 2));
    assert_eq!(counts(), [1, 0, 0, 1]);
}
