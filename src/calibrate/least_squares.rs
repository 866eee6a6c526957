//! Nonlinear least squares of a few parameters, none below zero.

use levenberg_marquardt::{LeastSquaresProblem, LevenbergMarquardt};
use nalgebra::storage::Owned;
use nalgebra::{DMatrix, DVector, Dyn};

/// Relative errors above this count by less than their square: pseudo-Huber
/// loss (Charbonnier et al. 1994). Assumed: the scatter of good rows.
const LARGE: f64 = 0.05;

/// A value that plain squares take to 0 begins again at this part of its start: at 0 nothing
/// says whether it should grow.
const AWAY: f64 = 1e-3;
/// A second solution counts if it leaves less than this part of what the first one leaves
/// (assumed: a better place, and not a few digits more).
const BETTER: f64 = 0.99;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Solution {
    pub(super) values: Vec<f64>,
    /// Half widths of 95 % intervals (1.96 standard errors); `None` where no
    /// residual depends on the value.
    pub(super) intervals: Vec<Option<f64>>,
}

/// Values near `start` for which `residuals` are small. `steps` are the changes
/// by which derivatives are taken. A value that no residual depends on, or that
/// starts at 0 (switched off), stays.
///
/// `None` if residuals cannot be computed at the start or become infinite.
pub(super) fn minimise(
    start: &[f64],
    steps: &[f64],
    residuals: &dyn Fn(&[f64]) -> Option<Vec<f64>>,
) -> Option<Solution> {
    let mut free: Vec<usize> = (0..start.len()).filter(|&i| start[i] > 0.0).collect();
    let all = Problem::new(start, steps, &free, residuals, LARGE)?;
    let jacobian = all.jacobian()?;
    let matters = |column: usize| jacobian.column(column).iter().any(|d| *d != 0.0);
    let mattering: Vec<usize> =
        (0..free.len()).filter(|&column| matters(column)).map(|column| free[column]).collect();
    free = mattering;
    let mut intervals = vec![None; start.len()];
    if free.is_empty() {
        return Some(Solution { values: start.to_vec(), intervals });
    }
    let from = |start: &[f64], large| Problem::new(start, steps, &free, residuals, large);
    let (mut found, left) = from(start, LARGE)?.minimised()?;
    // Far away, where all errors are large, the search may end on its way. Plain squares go
    // on, if to a place where odd rows weigh too much: from there it is not far.
    let squares = from(start, f64::INFINITY).and_then(Problem::minimised);
    if let Some((squares, _)) = squares {
        let mut near = squares.values();
        free.iter().for_each(|&i| near[i] = near[i].max(AWAY * start[i]));
        let again = from(&near, LARGE).and_then(Problem::minimised);
        if let Some((better, _)) = again.filter(|(_, less)| *less < BETTER * left) {
            found = better;
        }
    }
    let jacobian = found.jacobian()?;
    let residuals = found.residuals()?;
    let freedom = residuals.len().checked_sub(free.len()).filter(|&n| n > 0)?;
    let variance = residuals.norm_squared() / freedom as f64;
    let inverse = (jacobian.transpose() * &jacobian).try_inverse();
    for (column, &i) in free.iter().enumerate() {
        let spread = inverse.as_ref().map(|inverse| (inverse[(column, column)] * variance).sqrt());
        // A singular matrix determines nothing.
        intervals[i] = Some(spread.map_or(f64::INFINITY, |error| 1.96 * error * found.unit(i)));
    }
    Some(Solution { values: found.values(), intervals })
}

/// Values are `unit * |x|`, so that the optimiser's `x` may be any number.
struct Problem<'a> {
    start: Vec<f64>,
    steps: &'a [f64],
    free: &'a [usize],
    function: &'a dyn Fn(&[f64]) -> Option<Vec<f64>>,
    /// Errors above this count by less than their square.
    large: f64,
    x: DVector<f64>,
    current: Option<DVector<f64>>,
}

impl<'a> Problem<'a> {
    fn new(
        start: &[f64],
        steps: &'a [f64],
        free: &'a [usize],
        function: &'a dyn Fn(&[f64]) -> Option<Vec<f64>>,
        large: f64,
    ) -> Option<Self> {
        let x = DVector::from_element(free.len(), 1.0);
        let start = start.to_vec();
        let mut problem = Self { start, steps, free, function, large, x, current: None };
        problem.current = problem.at(&problem.x);
        problem.current.is_some().then_some(problem)
    }

    /// Where the optimiser ends, and what it leaves; `None` if that is not finite.
    fn minimised(self) -> Option<(Self, f64)> {
        let tolerance = 1e-6;
        let optimiser = LevenbergMarquardt::new().with_ftol(tolerance).with_xtol(tolerance);
        let (found, report) = optimiser.with_patience(20).minimize(self);
        let left = report.objective_function;
        left.is_finite().then_some((found, left))
    }

    fn unit(&self, i: usize) -> f64 {
        self.start[i]
    }

    fn values_at(&self, x: &DVector<f64>) -> Vec<f64> {
        let mut values = self.start.clone();
        for (&i, x) in self.free.iter().zip(x) {
            values[i] = self.unit(i) * x.abs();
        }
        values
    }

    fn values(&self) -> Vec<f64> {
        self.values_at(&self.x)
    }

    fn at(&self, x: &DVector<f64>) -> Option<DVector<f64>> {
        let errors = (self.function)(&self.values_at(x))?;
        let errors: Vec<f64> = errors.into_iter().map(|e| tamed(e, self.large)).collect();
        errors.iter().all(|error| error.is_finite()).then(|| DVector::from_vec(errors))
    }
}

/// The number whose square is the pseudo-Huber loss of `error`, above `large`.
fn tamed(error: f64, large: f64) -> f64 {
    if large.is_infinite() {
        return error;
    }
    let ratio = error / large;
    // (sqrt(1 + r^2) - 1) without cancellation.
    let loss = ratio * ratio / ((1.0 + ratio * ratio).sqrt() + 1.0);
    large * (2.0 * loss).sqrt().copysign(error)
}

impl LeastSquaresProblem<f64, Dyn, Dyn> for Problem<'_> {
    type ParameterStorage = Owned<f64, Dyn>;
    type ResidualStorage = Owned<f64, Dyn>;
    type JacobianStorage = Owned<f64, Dyn, Dyn>;

    fn set_params(&mut self, x: &DVector<f64>) {
        self.x.copy_from(x);
        self.current = self.at(x);
    }

    fn params(&self) -> DVector<f64> {
        self.x.clone()
    }

    fn residuals(&self) -> Option<DVector<f64>> {
        self.current.clone()
    }

    fn jacobian(&self) -> Option<DMatrix<f64>> {
        let here = self.current.as_ref()?;
        let mut jacobian = DMatrix::zeros(here.len(), self.free.len());
        for (column, &i) in self.free.iter().enumerate() {
            let step = self.steps[i] / self.unit(i);
            let mut x = self.x.clone();
            // Away from zero, where the absolute value has its corner.
            x[column] += step.copysign(x[column]);
            let there = self.at(&x)?;
            jacobian.set_column(column, &((there - here) / (x[column] - self.x[column])));
        }
        Some(jacobian)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A parabola through points without scatter is found again, whatever the start.
        #[test]
        fn what_made_the_data_is_found(
            truth in prop::array::uniform3(0.1..10.0_f64),
            start in prop::array::uniform3(0.1..10.0_f64),
        ) {
            let at = |p: &[f64], x: f64| p[0] + p[1] * x + p[2] * x * x;
            let points: Vec<f64> = (0..20).map(|i| f64::from(i) / 5.0).collect();
            let residuals = |p: &[f64]| {
                Some(points.iter().map(|&x| at(p, x) / at(&truth, x) - 1.0).collect())
            };
            let found = minimise(&start, &[1e-6; 3], &residuals).unwrap();
            for i in 0..3 {
                prop_assert!((found.values[i] / truth[i] - 1.0).abs() < 0.01, "{found:?} {truth:?}");
                prop_assert!(found.intervals[i].is_some());
            }
        }
    }

    #[test]
    fn what_nothing_depends_on_stays_and_has_no_interval() {
        let residuals = |p: &[f64]| Some(vec![p[0] - 2.0, p[0] - 2.1, p[2] * 1e9]);
        let found = minimise(&[1.0, 7.0, 0.0], &[1e-6; 3], &residuals).unwrap();
        assert!((found.values[0] - 2.05).abs() < 1e-3, "{found:?}");
        assert_eq!(&found.values[1..], [7.0, 0.0]);
        assert_eq!(&found.intervals[1..], [None, None]);
        assert!(found.intervals[0].unwrap() > 0.05);
    }

    #[test]
    fn one_odd_row_does_not_decide() {
        let rows = [1.0, 1.01, 0.99, 1.0, 1.01, 0.99, 5.0];
        let residuals = |p: &[f64]| Some(rows.iter().map(|row| row - p[0]).collect());
        let found = minimise(&[3.0], &[1e-6], &residuals).unwrap();
        assert!((found.values[0] - 1.0).abs() < 0.03, "{found:?}");
        assert_eq!(minimise(&[1.0], &[1e-6], &|_| None), None);
    }
}
