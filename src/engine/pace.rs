//! How fast a worker's GPU is, against what its step-time model says.

use super::work::AffinePiece;
use crate::settings::Invalid;
use crate::time::SimDuration;

/// A factor of the GPU time of every step, in whole thousandths, so that scaled
/// times are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    per_mille: u64,
}

/// The slowest worker (assumed: ten times as slow as any that stays in service). Its
/// longest step, 100 days, stays within the clock, which lasts 213.
const MOST: f64 = 100.0;

impl Pace {
    /// As the model says.
    pub const NORMAL: Self = Self { per_mille: 1_000 };

    /// Steps take `factor` times as long on the GPU, rounded to thousandths.
    ///
    /// # Errors
    /// If the factor is not from 0.01 to 100.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "10 to 100,000")]
    pub fn new(factor: f64) -> Result<Self, Invalid> {
        let allowed = "from 0.01 to 100: times that a step takes as long";
        Invalid::unless((0.01..=MOST).contains(&factor), "factor", factor, allowed)?;
        Ok(Self { per_mille: (factor * 1e3).round() as u64 })
    }

    fn scaled(self, ps: u64) -> u64 {
        if self == Self::NORMAL {
            return ps;
        }
        let scaled = u128::from(ps) * u128::from(self.per_mille) / 1_000;
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// A time at this pace.
    pub(super) fn time(self, time: SimDuration) -> SimDuration {
        SimDuration::from_ps(self.scaled(time.as_ps()))
    }

    /// The times of decode-only steps at this pace.
    pub(super) fn piece(self, piece: AffinePiece) -> AffinePiece {
        AffinePiece {
            base_ps: self.scaled(piece.base_ps),
            per_token_ps: self.scaled(piece.per_token_ps),
            ..piece
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::LONGEST_STEP_S;

    #[test]
    fn the_longest_step_of_the_slowest_worker_stays_within_the_clock() {
        let longest = SimDuration::from_secs_f64(LONGEST_STEP_S);
        let slowest = Pace::new(MOST).expect("allowed");
        assert_eq!(slowest.time(longest).as_ps() / 100, longest.as_ps());
        assert!(slowest.time(longest).as_ps() < u64::MAX / 2);
    }
}
