//! Values that Python may look at while a call lasts, and not after.

use std::sync::{Mutex, PoisonError};

/// A place for a value that another part of the program owns.
///
/// Python keeps objects as long as it likes. So what such an object shows of the
/// simulator's memory lies here, is there for one call only, and is looked at under a
/// lock: whoever looks holds it, and taking the value back waits for that.
#[derive(Debug)]
pub(crate) struct Lent<T>(Mutex<Option<T>>);

/// Takes the value back, however the call ends.
struct TakeBack<'a, T>(&'a Lent<T>);

impl<T> Drop for TakeBack<'_, T> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl<T> Lent<T> {
    /// Nothing, so far.
    pub(crate) const fn nothing() -> Self {
        Self(Mutex::new(None))
    }

    /// Lends `value` while `call` lasts.
    ///
    /// # Safety
    /// `value` must be sound to use until `call` has returned. It may pretend to live
    /// longer.
    #[expect(unsafe_code, reason = "what it asks of callers, nothing here can check")]
    pub(crate) unsafe fn lend<R>(&self, value: T, call: impl FnOnce() -> R) -> R {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        let _back = TakeBack(self);
        call()
    }

    /// What `look` makes of the value; `None` after the call. It must not call Python:
    /// what waits for the lock may hold the GIL.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }
}
