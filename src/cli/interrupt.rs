//! Ctrl-C: the process ends at once, and says what is done and how to go on.

use super::talk;
use kv_router_sim::router::external;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Exit code of a process that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Listens for Ctrl-C.
pub(super) struct Interrupt(Arc<Mutex<()>>);

impl Interrupt {
    /// From now on Ctrl-C says what `farewell` has to say and ends the process.
    pub(super) fn listen(farewell: impl Fn() -> String + Send + 'static) -> Self {
        let writing = Arc::new(Mutex::new(()));
        let held = Arc::clone(&writing);
        // Without a handler Ctrl-C ends the process too, only without a word.
        let _ = ctrlc::set_handler(move || {
            let _writing = held.lock().unwrap_or_else(PoisonError::into_inner);
            talk::warn(&format!("interrupted: {}", farewell()));
            external::end_all();
            std::process::exit(INTERRUPTED);
        });
        Self(writing)
    }

    /// While this is held Ctrl-C waits, so that results are written whole.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
