//! How much of the heap a thread holds, for tests of what things cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// What the allocator takes for so many bytes: its own eight before, in steps of 16.
fn taken(size: usize) -> isize {
    let whole = (size + 8).next_multiple_of(16).max(32);
    isize::try_from(whole).unwrap_or(isize::MAX)
}

fn count(change: isize) {
    // A thread that ends has none any more, and is not looked at.
    let _ending = HELD.try_with(|held| held.set(held.get() + change));
}

// SAFETY: each call goes on to the system's allocator as it is; counting neither
// allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(taken(layout.size()));
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-taken(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(taken(size) - taken(layout.size()));
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// By this thread: what it allocated, less what it gave back. As the C library counts.
pub(crate) fn held() -> isize {
    HELD.with(Cell::get)
}
