//! The step time of a real server, from a short probe: prompts of several
//! lengths, batches of several sizes, several contexts.

use super::least_squares::minimise;
use super::{Fitted, four_digits};
use crate::engine::step_time::Linear;
use crate::fleet::servers::{Prober, ServerError};
use crate::settings::Invalid;
use crate::stats;
use crate::time::SimDuration;

/// Prompt lengths, each alone; those beyond the budget of a step would be cut.
const PROMPTS: [usize; 6] = [32, 128, 256, 512, 1024, 2000];
/// Sequences that decode together, with [`SHORT`] prompts.
const BATCHES: [usize; 5] = [1, 2, 4, 8, 12];
/// Contexts of one sequence that decodes.
const CONTEXTS: [usize; 3] = [1000, 2000, 4000];
/// A prompt that costs little.
const SHORT: usize = 32;
/// Tokens of answers that are measured.
const DECODED: u32 = 48;

/// What was measured, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measured {
    /// Time to the first token of a prompt, alone.
    Prompt {
        /// Its length.
        tokens: f64,
        /// The time.
        ms: f64,
    },
    /// Time per further token.
    Decode {
        /// Sequences.
        seqs: f64,
        /// What each attends to, on average.
        context: f64,
        /// The time.
        ms: f64,
    },
}

/// A fit of one server.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveFit {
    /// In milliseconds, but `prefill_pair` and `decode_token` in nanoseconds.
    pub parameters: Vec<Fitted>,
    /// Everything measured, with the times of the fit.
    pub rows: Vec<(Measured, f64)>,
    /// The step time.
    pub linear: Linear,
    /// What a request takes beside its steps.
    pub overhead: SimDuration,
}

/// Keys in the order of the fit's values.
const KEYS: [&str; 6] =
    ["step", "prefill_token", "prefill_pair", "decode_seq", "decode_token", "overhead"];
/// Where the search begins, in milliseconds; the scale is that of a small model on a CPU.
const START: [f64; 6] = [3.0, 0.1, 2e-5, 0.3, 1e-3, 5.0];

/// Measures the server, everything `repeats` times and taken at the median.
///
/// # Errors
/// If a request is not answered.
pub fn measure(prober: &mut Prober, repeats: usize) -> Result<Vec<Measured>, ServerError> {
    let longest = prober.facts().max_model_len.map_or(usize::MAX, |tokens| tokens as usize);
    let fits = |prompt: &usize| prompt + DECODED as usize <= longest;
    // The first requests of a server are slow.
    prober.batch(2, SHORT, DECODED)?;
    let mut measured = Vec::new();
    for tokens in PROMPTS.into_iter().filter(fits) {
        let mut times = Vec::new();
        for _ in 0..repeats {
            times.push(prober.batch(1, tokens, 1)?[0].first_token.as_secs_f64() * 1e3);
        }
        measured.push(Measured::Prompt { tokens: tokens as f64, ms: median(times) });
    }
    let batches = BATCHES.map(|seqs| (seqs, SHORT));
    let contexts = CONTEXTS.map(|context| (1, context));
    for (seqs, prompt) in batches.into_iter().chain(contexts).filter(|(_, prompt)| fits(prompt)) {
        let mut times = Vec::new();
        for _ in 0..repeats {
            let timings = prober.batch(seqs, prompt, DECODED)?;
            // While all decode: from the last first token to the first last one.
            let from = timings.iter().map(|timing| timing.first_token).max().unwrap_or_default();
            let to = timings.iter().map(|timing| timing.last_token).min().unwrap_or_default();
            let each = timings.iter().map(|timing| {
                let decode = (timing.last_token - timing.first_token).as_secs_f64() * 1e3;
                decode / f64::from(timing.tokens.max(2) - 1)
            });
            if to > from {
                times.push(median(each.collect()));
            }
        }
        let (seqs, context) = (seqs as f64, prompt as f64 + f64::from(DECODED) / 2.0);
        if !times.is_empty() {
            measured.push(Measured::Decode { seqs, context, ms: median(times) });
        }
    }
    Ok(measured)
}

impl LiveFit {
    /// Fits what was measured.
    ///
    /// # Errors
    /// If there is too little of it.
    pub fn new(measured: &[Measured]) -> Result<Self, Invalid> {
        let residuals = |values: &[f64]| {
            let error = |row: &Measured| {
                let (Measured::Prompt { ms, .. } | Measured::Decode { ms, .. }) = row;
                time(values, row) / ms - 1.0
            };
            Some(measured.iter().map(error).collect())
        };
        let changes = START.map(|value| value * 1e-3);
        let solution = minimise(&START, &changes, &residuals).ok_or_else(|| {
            Invalid::new("probe", measured.len(), "more measurements than there are parameters")
        })?;
        let values: Vec<f64> = solution.values.iter().map(|&value| four_digits(value)).collect();
        let duration = |key: usize| SimDuration::from_millis_f64(values[key]);
        let parameters = KEYS.into_iter().enumerate().map(|(at, key)| {
            // Pairs and tokens of context are short.
            let unit = if at == 2 || at == 4 { 1e6 } else { 1.0 };
            Fitted {
                key,
                before: four_digits(START[at] * unit),
                after: four_digits(values[at] * unit),
                interval: solution.intervals[at].map(|interval| interval * unit),
            }
        });
        Ok(Self {
            parameters: parameters.collect(),
            rows: measured.iter().map(|row| (*row, time(&values, row))).collect(),
            linear: Linear {
                step: duration(0),
                prefill_token: duration(1),
                prefill_pair: duration(2),
                decode_seq: duration(3),
                decode_token: duration(4),
            },
            overhead: duration(5),
        })
    }

    /// Mean absolute error of the fit, percent.
    pub fn error_percent(&self) -> f64 {
        let errors: Vec<f64> = self
            .rows
            .iter()
            .map(|(row, fitted)| {
                let (Measured::Prompt { ms, .. } | Measured::Decode { ms, .. }) = row;
                100.0 * (fitted / ms - 1.0).abs()
            })
            .collect();
        stats::mean(&errors).unwrap_or_default()
    }

    /// The settings to put into an experiment, as arguments of `--set`.
    pub fn settings(&self) -> [String; 2] {
        let ns = |time: SimDuration| format!("\"{}ns\"", time.as_ps() as f64 / 1e3);
        let Linear { step, prefill_token, prefill_pair, decode_seq, decode_token } = self.linear;
        let [step, token, pair, seq, context] =
            [step, prefill_token, prefill_pair, decode_seq, decode_token].map(ns);
        [
            format!(
                "engine.step_time={{ kind = \"linear\", step = {step}, prefill_token = {token}, \
                 prefill_pair = {pair}, decode_seq = {seq}, decode_token = {context} }}"
            ),
            format!("workload.client.overhead={}", ns(self.overhead)),
        ]
    }
}

/// What `values` say of a measurement, in milliseconds.
fn time(values: &[f64], row: &Measured) -> f64 {
    let [step, token, pair, seq, context_token, overhead] = values[..] else {
        unreachable!("as many values as KEYS")
    };
    match *row {
        Measured::Prompt { tokens, .. } => {
            overhead + step + token * tokens + pair * tokens * (tokens + 1.0) / 2.0
        }
        Measured::Decode { seqs, context, .. } => {
            step + seq * seqs + context_token * seqs * context
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    stats::quantile_by(values.len(), 0.5, |rank| values[rank]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_server_that_is_linear_are_found_again() {
        let truth = [4.0, 0.19, 4.3e-5, 0.4, 2.5e-3, 7.0];
        let mut rows: Vec<Measured> =
            PROMPTS.map(|tokens| Measured::Prompt { tokens: tokens as f64, ms: 0.0 }).to_vec();
        rows.extend(
            BATCHES.map(|seqs| (seqs, SHORT)).into_iter().chain(CONTEXTS.map(|c| (1, c))).map(
                |(seqs, context)| Measured::Decode {
                    seqs: seqs as f64,
                    context: context as f64,
                    ms: 0.0,
                },
            ),
        );
        for (at, row) in rows.iter_mut().enumerate() {
            let noise = 1.0 + 0.01 * if at % 2 == 0 { 1.0 } else { -1.0 };
            let exact = time(&truth, row) * noise;
            let (Measured::Prompt { ms, .. } | Measured::Decode { ms, .. }) = row;
            *ms = exact;
        }
        let fit = LiveFit::new(&rows).unwrap();
        assert!(fit.error_percent() < 1.5, "{fit:?}");
        assert!((fit.linear.decode_seq.as_millis() - 0.4).abs() < 0.1, "{fit:?}");
        assert!((fit.linear.prefill_token.as_millis() - 0.19).abs() < 0.02, "{fit:?}");
        let [step_time, overhead] = fit.settings();
        assert!(toml::from_str::<toml::Table>(&step_time).is_ok(), "{step_time}");
        assert!(overhead.contains("ns"), "{overhead}");
        assert!(LiveFit::new(&rows[..3]).is_err());
    }
}
