//! Writers that wait for room in the outbox.

use super::*;

#[test]
fn where_the_outbox_is_full_writers_wait_and_are_woken_in_their_order() {
    let mut near = full();
    let waiting: Vec<_> = (0..3)
        .map(|_| Cell::new(near.open().expect("room")))
        .collect();
    let woken = Woken::default();
    for name in [2, 0, 1] {
        let id = &waiting[name];
        assert_eq!(near.write(id, b"more"), 0);
        let waker = noted(name as u32, &woken);
        for _ in 0..2 {
            assert!(!near.may_write(id.get(), &waker));
        }
    }
    near.close(waiting[0].get());
    let _sent = near.outbox.take_plaintext();
    let mut wakers = Wakers::new();
    near.sent(&mut wakers);
    assert_eq!(run(wakers, &woken), [2, 1], "each once");
    for name in [2, 1] {
        assert!(near.may_write(waiting[name].get(), Waker::noop()));
        assert_eq!(near.write(&waiting[name], b"more"), 4);
    }
}

#[test]
fn what_is_small_does_not_wait_behind_all_that_are_large() {
    let mut near = client();
    while near.outbox.takes(2 * WHOLE) {
        speaking_as_far_as_it_goes(&mut near);
    }
    let large = Cell::new(near.open().expect("room"));
    assert_eq!(near.write(&large, &[7; 2 * WHOLE]), 0);
    assert!(!near.may_write(large.get(), Waker::noop()));
    let before = near.outbox.len();
    let small = speaking(&mut near, &[7; 1000]);
    assert!(near.may_write(small.get(), Waker::noop()));
    assert_eq!(near.write(&small, &[7; 4 * 1024]), 4 * 1024);
    assert!(near.outbox.len() > before + 5_000);
    let _sent = near.outbox.take_plaintext();
    near.sent(&mut Wakers::new());
    assert!(near.may_write(large.get(), Waker::noop()));
    assert_eq!(near.write(&large, &[7; 2 * WHOLE]), WHOLE);
}

#[test]
fn who_is_told_to_write_can_also_behind_a_part_of_what_is_large() {
    let mut near = client();
    let large = speaking(&mut near, &[7]);
    take(&mut near, &window(large.get(), MAX_WINDOW - WINDOW)).expect("within the widest");
    while near.outbox.len() < FULL - WHOLE {
        speaking_as_far_as_it_goes(&mut near);
    }
    let sent = near.write(&large, &[7; 40_000]);
    assert!(0 < sent && sent < 30_000, "{sent}");
    assert!(!near.may_write(large.get(), Waker::noop()));
    assert_eq!(near.write(&large, &[7; 10_000]), 0);
    // That is small.
    assert_eq!(near.write(&large, &[7; 1_000]), 1_000);
    assert!(near.may_write(large.get(), Waker::noop()));
}

#[test]
fn who_waited_with_much_and_begins_with_little_is_woken_later() {
    let mut near = client();
    while near.outbox.takes(2 * WHOLE) {
        speaking_as_far_as_it_goes(&mut near);
    }
    let woken = Woken::default();
    let id = Cell::new(near.open().expect("room"));
    assert_eq!(near.write(&id, &[7; 2 * WHOLE]), 0);
    assert!(!near.may_write(id.get(), &noted(1, &woken)));
    assert_eq!(near.write(&id, b"little"), 6);
    assert_eq!(near.write(&id, &[7; 2 * WHOLE]), 0);
    assert!(!near.may_write(id.get(), &noted(2, &woken)));
    assert_eq!(near.blocked(), 1);
    let _sent = near.outbox.take_plaintext();
    let mut wakers = Wakers::new();
    near.sent(&mut wakers);
    assert_eq!(run(wakers, &woken), [2]);
}

#[test]
fn who_waits_for_a_full_outbox_and_leaves_is_forgotten() {
    let mut near = full();
    for _ in 0..10_000 {
        let id = near.open().expect("room");
        assert!(!near.may_write(id, Waker::noop()));
        near.close(id);
    }
    assert_eq!(near.blocked(), 0);
}
