//! What an engine reaches of a GPU's peaks, from measured steps.

use super::least_squares::minimise;
use super::{Fitted, four_digits};
use crate::accuracy::steps::Steps;
use crate::engine::model::Efficiency;
use crate::settings::Invalid;
use crate::stats;

/// Parameters of the formula and how to reach them; absent ones are 0.
type Access = (&'static str, fn(&mut Efficiency) -> Option<&mut f64>);

const PARAMETERS: [Access; 11] = [
    ("weight_bandwidth_ratio", |e| Some(&mut e.weight_bandwidth_ratio)),
    ("fp8_ratio", |e| e.fp8_ratio.as_mut()),
    ("bf16_ratio", |e| Some(&mut e.bf16_ratio)),
    ("attention_ratio", |e| Some(&mut e.attention_ratio)),
    ("attention_floor_tokens", |e| Some(&mut e.attention_floor_tokens)),
    ("kv_bandwidth_ratio", |e| Some(&mut e.kv_bandwidth_ratio)),
    ("gemm_us", |e| Some(&mut e.gemm_us)),
    ("attention_us", |e| Some(&mut e.attention_us)),
    ("fp8_pad_rows", |e| Some(&mut e.fp8_pad_rows)),
    ("allreduce_us", |e| e.allreduce_us.as_mut()),
    ("allreduce_gb_per_s", |e| e.allreduce_gb_per_s.as_mut()),
];

/// A fit of one GPU and engine.
#[derive(Clone, Debug, PartialEq)]
pub struct PeaksFit {
    /// The parameters.
    pub parameters: Vec<Fitted>,
    /// Steps that it was fitted to.
    pub count: usize,
    /// Mean absolute error in percent of whole steps, before and after.
    pub error_percent: [f64; 2],
}

impl PeaksFit {
    /// Fits what an engine reaches to `steps`, which must be of one GPU and engine.
    ///
    /// Residuals are the errors of the parts of every step and of the whole, as
    /// shares of the whole: totals alone would not tell the parts apart.
    ///
    /// # Errors
    /// If there are too few steps, or they can be explained only by more than a peak.
    pub fn new(steps: &Steps) -> Result<Self, Invalid> {
        let needed = |allowed| Invalid::new("steps", steps.rows.len(), allowed);
        let before = steps.efficiency().ok_or_else(|| needed("at least one"))?;
        let with = |values: &[f64]| {
            let mut efficiency = before.clone();
            for ((_, access), &value) in PARAMETERS.iter().zip(values) {
                if let Some(place) = access(&mut efficiency) {
                    *place = value;
                }
            }
            efficiency
        };
        let mut copy = before.clone();
        let start: Vec<f64> =
            PARAMETERS.iter().map(|(_, access)| access(&mut copy).map_or(0.0, |v| *v)).collect();
        // The formula keeps some times in whole picoseconds: no smaller changes.
        let changes: Vec<f64> = start.iter().map(|value| value * 1e-3).collect();
        let residuals = |values: &[f64]| Some(steps.part_errors(&with(values)));
        let solution = minimise(&start, &changes, &residuals)
            .ok_or_else(|| needed("more than there are parameters"))?;
        let values: Vec<f64> = solution.values.iter().map(|&value| four_digits(value)).collect();
        let after = with(&values);
        after.validate()?;
        let error = |efficiency: &Efficiency| {
            let errors: Vec<f64> =
                steps.errors_with(Some(efficiency)).iter().map(|error| error.abs()).collect();
            stats::mean(&errors).unwrap_or_default()
        };
        let parameters = PARAMETERS.iter().zip(&start).zip(&values).zip(&solution.intervals);
        Ok(Self {
            parameters: parameters
                .map(|((((key, _), &before), &after), &interval)| Fitted {
                    key,
                    before,
                    after,
                    interval,
                })
                .collect(),
            count: steps.rows.len(),
            error_percent: [error(before), error(&after)],
        })
    }
}
