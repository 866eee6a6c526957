//! Errors of many predictions in a few numbers.

use crate::stats;

/// Errors in percent of what was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Errors(Vec<f64>);

impl Errors {
    /// Of what was predicted against what was measured.
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        pairs.into_iter().map(|(predicted, measured)| percent(predicted, measured)).collect()
    }

    /// Number of predictions.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Mean absolute error; `None` of no predictions, as the others.
    pub fn mean(&self) -> Option<f64> {
        stats::mean(&self.absolute())
    }

    /// Mean error: above 0 if too much is predicted.
    pub fn bias(&self) -> Option<f64> {
        stats::mean(&self.0)
    }

    /// The `q`-quantile of the absolute errors.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        stats::quantile(&self.absolute(), q)
    }

    /// In ascending order.
    fn absolute(&self) -> Vec<f64> {
        let mut absolute: Vec<f64> = self.0.iter().map(|error| error.abs()).collect();
        stats::sort(&mut absolute);
        absolute
    }
}

/// The error of one prediction, in percent of what was measured.
pub(super) fn percent(predicted: f64, measured: f64) -> f64 {
    (predicted / measured - 1.0) * 100.0
}

impl FromIterator<f64> for Errors {
    fn from_iter<I: IntoIterator<Item = f64>>(errors: I) -> Self {
        Self(errors.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_what_was_measured() {
        let errors = Errors::of([(11.0, 10.0), (9.0, 10.0), (40.0, 20.0)]);
        let close = |value: Option<f64>, expected: f64| (value.unwrap() - expected).abs() < 1e-9;
        assert_eq!(errors.count(), 3);
        assert!(close(errors.mean(), 40.0));
        assert!(close(errors.bias(), 100.0 / 3.0));
        assert!(close(errors.quantile(0.5), 10.0));
        assert!(close(errors.quantile(1.0), 100.0));
        assert_eq!(Errors::default().mean(), None);
    }
}
