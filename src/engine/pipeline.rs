//! Host and GPU as two resources, and the closed form of a run of decode steps.
//!
//! The host makes a turn per step: at its *boundary* it handles the results that
//! are due, forms step `k`, spends `prepare` before anything of it can run and
//! `launch` on launching it. The GPU runs step `k` after step `k - 1`; a launch
//! that goes on while the GPU works (an eager step) bounds the step from below:
//!
//! ```text
//! launched(k) = boundary(k) + prepare + launch
//! gpu_end(k)  = max(max(gpu_end(k-1), boundary(k) + prepare) + gpu(k), launched(k))
//! boundary(k+1) = gpu_end(k)                       without overlap scheduling
//!               = max(launched(k), gpu_end(k-1))   with it
//! ```
//!
//! With overlap the boundary `k + 1` handles the results of step `k - 1`, so a
//! token of step `k` leaves at `max(gpu_end(k), launched(k + 1))`
//! (TensorRT-LLM's rules T26-T29).
//!
//! In a decode-only run `gpu(k)` grows by the same amount every step, so after a
//! few steps the pipeline is either bound by the GPU or by the host, and the
//! boundaries form an arithmetic progression of gaps. [`Pipeline::run`] returns
//! those progressions, exact to the picosecond, in O(1) each.

use crate::time::{SimDuration, SimTime};

/// When the host is next free and when the GPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pipeline {
    /// The next boundary.
    pub(super) boundary: SimTime,
    /// End of the last launched step.
    pub(super) gpu_end: SimTime,
}

/// Steps that differ only in their GPU time, which grows evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cadence {
    pub(super) overlap: bool,
    pub(super) prepare: SimDuration,
    pub(super) launch: SimDuration,
    /// GPU time of the next step.
    pub(super) gpu: SimDuration,
    /// How much longer each step takes than the one before.
    pub(super) growth: SimDuration,
}

/// Boundaries with evenly growing gaps: the `k`-th (from 1) lies
/// `k gap + growth k (k - 1) / 2` after `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: SimTime,
    pub(super) gap: SimDuration,
    pub(super) growth: SimDuration,
    pub(super) steps: u64,
}

impl Segment {
    /// The boundary after `k` steps of this segment.
    pub(super) fn boundary(&self, k: u64) -> SimTime {
        self.start + progression(self.gap, self.growth, k)
    }

    /// The same, a segment per step.
    pub(super) fn single_steps(&self) -> impl Iterator<Item = Self> + '_ {
        (0..self.steps).map(|k| {
            let start = self.boundary(k);
            Self { start, gap: self.boundary(k + 1) - start, growth: SimDuration::ZERO, steps: 1 }
        })
    }
}

/// Sum of `k` terms that begin with `first` and grow by `growth`.
fn progression(first: SimDuration, growth: SimDuration, k: u64) -> SimDuration {
    if k == 0 {
        return SimDuration::ZERO;
    }
    let pairs = if k.is_multiple_of(2) {
        (k / 2).saturating_mul(k - 1)
    } else {
        k.saturating_mul((k - 1) / 2)
    };
    first * k + growth * pairs
}

/// The most terms, up to `max`, whose sum stays within `budget`.
fn terms_within(first: SimDuration, growth: SimDuration, budget: SimDuration, max: u64) -> u64 {
    if progression(first, growth, max) <= budget {
        return max;
    }
    // The root of the quadratic equation, which rounding may miss by a little.
    let mut fits = root(first, growth, budget).min(max - 1);
    while progression(first, growth, fits) > budget {
        fits -= 1;
    }
    while progression(first, growth, fits + 1) <= budget {
        fits += 1;
    }
    fits
}

/// About how many terms add up to `budget`, at most; not all of them are zero.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of terms")]
fn root(first: SimDuration, growth: SimDuration, budget: SimDuration) -> u64 {
    let (first, growth, budget) =
        (first.as_ps() as f64, growth.as_ps() as f64, budget.as_ps() as f64);
    let linear = first - growth / 2.0;
    let discriminant = (linear * linear + 2.0 * growth * budget).sqrt();
    // Of the two forms the one that takes no difference of near numbers.
    let terms = if linear > 0.0 {
        2.0 * budget / (linear + discriminant)
    } else {
        (discriminant - linear) / growth
    };
    terms as u64
}

impl Cadence {
    fn host(&self) -> SimDuration {
        self.prepare + self.launch
    }

    fn skip(&mut self, steps: u64) {
        self.gpu += self.growth * steps;
    }

    /// How many of the next `max` steps have a GPU time of at most `limit`.
    fn steps_up_to(&self, limit: SimDuration, max: u64) -> u64 {
        if self.gpu > limit {
            return 0;
        }
        match (limit - self.gpu).as_ps().checked_div(self.growth.as_ps()) {
            None => max,
            Some(n) => max.min(n + 1),
        }
    }
}

impl Pipeline {
    /// Starts afresh at `now`, with an idle GPU.
    pub(super) fn restart(&mut self, now: SimTime) {
        *self = Self { boundary: now, gpu_end: now };
    }

    /// One step of any kind.
    pub(super) fn step(&mut self, step: &Cadence) {
        let ready = self.boundary + step.prepare;
        let launched = ready + step.launch;
        let gpu_end = (self.gpu_end.max(ready) + step.gpu).max(launched);
        self.boundary = if step.overlap { launched.max(self.gpu_end) } else { gpu_end };
        self.gpu_end = gpu_end;
    }

    /// Up to `max_steps` steps whose boundaries lie at or before `until`: says how many. The
    /// boundaries are shown as segments, and `cadence` moves on.
    pub(super) fn run(
        &mut self,
        cadence: &mut Cadence,
        max_steps: u64,
        until: SimTime,
        // Not generic: one copy of the code stays in the processor's cache.
        show: &mut dyn FnMut(Segment),
    ) -> u64 {
        let mut left = max_steps;
        while left > 0 {
            let start = self.boundary;
            let (gap, growth, steps) = self.steady(cadence, left, until);
            if steps > 1 {
                show(Segment { start, gap, growth, steps });
                left -= steps;
                continue;
            }
            let mut next = *self;
            next.step(cadence);
            if next.boundary > until {
                break;
            }
            *self = next;
            cadence.skip(1);
            left -= 1;
            let gap = self.boundary - start;
            show(Segment { start, gap, growth: SimDuration::ZERO, steps: 1 });
        }
        max_steps - left
    }

    /// As many steps as stay in one regime with a closed form, if the pipeline
    /// is in one; at most one step means "take a single step instead".
    fn steady(
        &mut self,
        cadence: &mut Cadence,
        max: u64,
        until: SimTime,
    ) -> (SimDuration, SimDuration, u64) {
        let none = (SimDuration::ZERO, SimDuration::ZERO, 0);
        if until < self.boundary {
            return none;
        }
        let budget = until - self.boundary;
        let host = cadence.host();
        let lead = self.gpu_end.since(self.boundary);
        let host_bound_gpu = if cadence.overlap { host } else { host - cadence.prepare };
        if lead <= cadence.prepare {
            // Bound by the host as long as the step's GPU time stays hidden.
            let hidden = cadence.steps_up_to(host_bound_gpu, max);
            if hidden > 1 {
                let steps = terms_within(host, SimDuration::ZERO, budget, hidden);
                if steps > 1 {
                    let last_gpu = cadence.gpu + cadence.growth * (steps - 1);
                    self.boundary += host * steps;
                    let slack = (cadence.prepare + last_gpu) - host;
                    self.gpu_end = self.boundary + slack;
                    cadence.skip(steps);
                    return (host, SimDuration::ZERO, steps);
                }
                return none;
            }
        }
        if !cadence.overlap {
            return self.steady_without_overlap(cadence, max, budget);
        }
        if cadence.gpu < host {
            return none;
        }
        if cadence.prepare <= lead && lead < host {
            // The host is still what binds, but the GPU falls behind by a little
            // more every step, until its lead covers a turn of the host.
            let behind = cadence.gpu - host;
            let steps = 1 + terms_within(behind, cadence.growth, host - lead, max - 1);
            let steps = terms_within(host, SimDuration::ZERO, budget, steps);
            if steps > 1 {
                self.boundary += host * steps;
                self.gpu_end += progression(cadence.gpu, cadence.growth, steps);
                cadence.skip(steps);
            }
            return (host, SimDuration::ZERO, steps);
        }
        if lead < host {
            return none;
        }
        // Bound by the GPU. The first gap is the lead, the next ones are the
        // GPU times: take the first alone unless it continues the progression.
        if lead + cadence.growth != cadence.gpu {
            return none;
        }
        let steps = terms_within(lead, cadence.growth, budget, max);
        if steps > 1 {
            self.boundary += progression(lead, cadence.growth, steps);
            cadence.skip(steps);
            self.gpu_end = self.boundary + (cadence.gpu - cadence.growth);
        }
        (lead, cadence.growth, steps)
    }

    /// Every step lasts `prepare` and its GPU time, which hides the launch.
    fn steady_without_overlap(
        &mut self,
        cadence: &mut Cadence,
        max: u64,
        budget: SimDuration,
    ) -> (SimDuration, SimDuration, u64) {
        let gap = cadence.prepare + cadence.gpu;
        if cadence.gpu < cadence.launch || self.gpu_end > self.boundary {
            return (gap, cadence.growth, 0);
        }
        let steps = terms_within(gap, cadence.growth, budget, max);
        if steps > 1 {
            self.boundary += progression(gap, cadence.growth, steps);
            self.gpu_end = self.boundary;
            cadence.skip(steps);
        }
        (gap, cadence.growth, steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ps(n: u64) -> SimDuration {
        SimDuration::from_ps(n)
    }

    fn stepwise(
        mut pipe: Pipeline,
        mut c: Cadence,
        max: u64,
        until: SimTime,
    ) -> (Pipeline, Vec<SimTime>) {
        let mut boundaries = Vec::new();
        for _ in 0..max {
            let mut next = pipe;
            next.step(&c);
            if next.boundary > until {
                break;
            }
            pipe = next;
            c.skip(1);
            boundaries.push(pipe.boundary);
        }
        (pipe, boundaries)
    }

    proptest! {
        /// The closed form is the step-by-step recurrence, whatever binds.
        #[test]
        fn run_equals_single_steps(
            overlap: bool,
            prepare in 0u64..30,
            launch in 0u64..30,
            gpu in 0u64..60,
            growth in prop_oneof![Just(0u64), 0u64..4],
            lead in 0u64..120,
            max in 0u64..60,
            until in prop_oneof![Just(u64::MAX), 1_000u64..3_000],
        ) {
            let start = SimTime::from_ps(1_000);
            let lead = if overlap { lead } else { 0 };
            let pipe = Pipeline { boundary: start, gpu_end: start + ps(lead) };
            let cadence = Cadence {
                overlap, prepare: ps(prepare), launch: ps(launch), gpu: ps(gpu), growth: ps(growth),
            };
            let until = SimTime::from_ps(until);
            let (expected, boundaries) = stepwise(pipe, cadence, max, until);
            let (mut fast, mut moving) = (pipe, cadence);
            let mut segments = Vec::new();
            let steps = fast.run(&mut moving, max, until, &mut |segment| segments.push(segment));
            prop_assert_eq!(steps, boundaries.len() as u64);
            prop_assert_eq!(fast.boundary, expected.boundary);
            // An idle GPU is idle, however long ago it finished.
            prop_assert_eq!(fast.gpu_end.max(fast.boundary), expected.gpu_end.max(expected.boundary));
            let got: Vec<SimTime> = segments
                .iter()
                .flat_map(|segment| (1..=segment.steps).map(|k| segment.boundary(k)))
                .collect();
            prop_assert_eq!(&got, &boundaries);
            prop_assert_eq!(moving.gpu, ps(gpu + growth * boundaries.len() as u64));
        }

        /// At any size of the terms, up to hours of picoseconds.
        #[test]
        fn terms_within_is_the_most_that_fits(
            first in prop_oneof![0u64..100, 0u64..1 << 50],
            growth in prop_oneof![Just(0u64), 0u64..100, 0u64..1 << 40],
            budget in prop_oneof![0u64..1_000, 0u64..1 << 54, Just(u64::MAX)],
            max in 1u64..1 << 20,
        ) {
            let (first, growth, budget) = (ps(first), ps(growth), ps(budget));
            let terms = terms_within(first, growth, budget, max);
            prop_assert!(terms <= max && progression(first, growth, terms) <= budget);
            prop_assert!(terms == max || progression(first, growth, terms + 1) > budget);
        }

        /// A long run needs few segments.
        #[test]
        fn segments_are_few(
            overlap: bool,
            gpu in prop_oneof![1u64..1_000, 415u64..430],
            growth in 0u64..3,
        ) {
            let mut pipe = Pipeline { boundary: SimTime::ZERO, gpu_end: SimTime::ZERO };
            let mut cadence = Cadence {
                overlap, prepare: ps(20), launch: ps(400), gpu: ps(gpu), growth: ps(growth),
            };
            let mut segments = 0;
            pipe.run(&mut cadence, 5_000, SimTime::MAX, &mut |_| segments += 1);
            prop_assert!(segments < 100, "{segments} segments");
        }
    }
}
