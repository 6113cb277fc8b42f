//! Ctrl-C: worlds are cleared before the program ends.

use std::sync::Mutex;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

use crate::Remains;

static TO_CLEAR: Mutex<Vec<Remains>> = Mutex::new(Vec::new());

/// From now on SIGINT and SIGTERM clear all worlds named to [`on_interrupt`]
/// and end the program. Call it before any thread is started.
pub fn catch_interrupts() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            eprintln!("\ninterrupted: cleaning up");
            // Twice: the main thread may just be making something.
            for _ in 0..2 {
                let worlds = TO_CLEAR.lock().map(|w| w.clone()).unwrap_or_default();
                worlds.iter().for_each(Remains::clear);
            }
            std::process::exit(130);
        }
    });
    Ok(())
}

/// This world goes when the program is interrupted.
pub fn on_interrupt(world: Remains) {
    if let Ok(mut worlds) = TO_CLEAR.lock() {
        worlds.push(world);
    }
}
