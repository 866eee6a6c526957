//! Kernels of an engine's version, by the time of those that were measured.
//!
//! Operators were measured under one version of each engine. Of some others it is known how
//! their kernels compare, not how long each takes: their step times are *scaled*.

use crate::engine::dtype::Dtype;
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens of a step up to which products are those of decodes, and from which on those of
/// prompts; between them the ratio is interpolated linearly in the logarithm (assumed: an H200
/// is busy moving weights up to about 200 tokens in FP8).
const DECODE_TOKENS: f64 = 128.0;
const PROMPT_TOKENS: f64 = 1_024.0;

/// `[engine.kernels]`: times as multiples of the measured ones. 1 unless given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kernels {
    /// Matrix products in FP8 with one scale, in steps of 1,024 tokens and more.
    pub fp8_prompts: f64,
    /// The same in steps of up to 128 tokens.
    pub fp8_decodes: f64,
    /// Attention of sequences that decode, but to a latent.
    pub decode_attention: f64,
}

impl Default for Kernels {
    fn default() -> Self {
        Self { fp8_prompts: 1.0, fp8_decodes: 1.0, decode_attention: 1.0 }
    }
}

impl Kernels {
    /// Refuses ratios that no two versions of a kernel have.
    ///
    /// # Errors
    /// The first unusable key.
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        for (key, ratio) in [
            ("fp8_prompts", self.fp8_prompts),
            ("fp8_decodes", self.fp8_decodes),
            ("decode_attention", self.decode_attention),
        ] {
            let allowed = "from 0.1 to 10: a multiple of the time that was measured";
            Invalid::unless((0.1..=10.0).contains(&ratio), key, ratio, allowed)?;
        }
        Ok(())
    }

    /// Matrix products with weights in `dtype` in a step of so many tokens, as a multiple of
    /// their measured time.
    pub(super) fn products(&self, dtype: Dtype, tokens: f64) -> f64 {
        if dtype != Dtype::Fp8 {
            return 1.0;
        }
        let rise = self.fp8_prompts - self.fp8_decodes;
        // Of most versions: every step would take two logarithms for nothing.
        if rise == 0.0 {
            return self.fp8_decodes;
        }
        let share = (tokens / DECODE_TOKENS).ln() / (PROMPT_TOKENS / DECODE_TOKENS).ln();
        self.fp8_decodes + rise * share.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_go_over_from_decodes_to_prompts() {
        let kernels = Kernels { fp8_prompts: 1.4, fp8_decodes: 1.2, ..Kernels::default() };
        let at = |tokens| kernels.products(Dtype::Fp8, tokens);
        assert_eq!([at(1.0), at(128.0), at(1_024.0), at(16_384.0)], [1.2, 1.2, 1.4, 1.4]);
        assert!(at(256.0) > at(128.0) && at(512.0) > at(256.0) && at(1_024.0) > at(512.0));
        assert_eq!(kernels.products(Dtype::Fp8Block, 1_024.0), 1.0);
        assert_eq!(Kernels::default().products(Dtype::Fp8, 300.0), 1.0);
    }
}
