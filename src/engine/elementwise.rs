//! Kernels of a layer beside products, attention and exchange: norms with their residual,
//! rotation, activation, top-k.
//!
//! No table of operators has them, so both models of step times compute them.

use crate::engine::hardware::Hardware;

/// Fixed seconds of a layer of a dense network. Fitted to the operator tables of NVIDIA
/// AIConfigurator 0.12.0, as the next number.
const DENSE_LAYER_S: f64 = 9e-6;
/// Share of the memory bandwidth that they reach.
const BANDWIDTH_RATIO: f64 = 0.64;
/// Fixed seconds of a layer of a network with experts, whose activation is among what was
/// measured of them. Fits the runs of gpt-oss; the few dense layers of such networks are taken
/// like the others.
const EXPERT_LAYER_S: f64 = 4e-6;

/// What they take in all layers of a step, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Elementwise {
    /// Every step.
    pub(super) step_s: f64,
    /// Every token of it.
    pub(super) token_s: f64,
}

impl Hardware {
    /// Its element-wise kernels.
    pub(super) fn elementwise(&self) -> Elementwise {
        let Self { shape, gpu, tp, .. } = self;
        let layers = f64::from(shape.layers);
        let bandwidth = gpu.bandwidth_tb_per_s * 1e12;
        // Numbers of 16 bit that a token has moved: by the width of a layer, and by that of the
        // feed-forward, which the activation reads twice and writes once.
        let hidden = 8.0 * f64::from(shape.hidden);
        let ffn = 3.0 * f64::from(shape.ffn) / f64::from(*tp);
        let (layer_s, numbers) = match shape.experts {
            None => (DENSE_LAYER_S, hidden + ffn),
            Some(_) => (EXPERT_LAYER_S, hidden),
        };
        Elementwise {
            step_s: layers * layer_s,
            token_s: layers * (numbers * 2.0) / (BANDWIDTH_RATIO * bandwidth),
        }
    }
}
