//! Fits an engine's parameters to measurements.
//!
//! Steps give what an engine reaches of a GPU's peaks (a file of
//! `models/efficiencies/`), serving runs its host time (a file of
//! `models/engines/`). Both are least-squares problems; residuals are relative,
//! and large ones count less than by their square, so that a few odd rows do not
//! decide (module `least_squares`).

mod host;
mod least_squares;
mod peaks;
#[cfg(feature = "live")]
pub mod probed;
mod rewrite;

pub use host::HostFit;
pub use peaks::PeaksFit;
pub use rewrite::rewrite;

/// A parameter and what was found for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Its key in the file.
    pub key: &'static str,
    /// Its value in the library.
    pub before: f64,
    /// The fitted value, to four digits.
    pub after: f64,
    /// Half width of its 95 % interval, from the Jacobian; `None` if the
    /// measurements do not depend on it, so that it stayed as it was.
    pub interval: Option<f64>,
}

/// Four digits: more than any of these parameters is known to.
fn four_digits(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    format!("{value:.3e}").parse().unwrap_or(value)
}
