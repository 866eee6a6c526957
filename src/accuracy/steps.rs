//! Measured steps against the formula.

use super::AccuracyError;
use super::data::{PARTS, Step};
use super::errors::percent;
use crate::engine::model::{Efficiency, Hardware, Model, Parts};
use crate::engine::roofline::{Roofline, StepParts};
use std::collections::BTreeMap;
use std::path::Path;

/// Measured steps with the hardware of their deployments.
#[derive(Clone, Debug)]
pub struct Steps {
    /// The steps.
    pub rows: Vec<Step>,
    hardware: BTreeMap<Parts, Hardware>,
}

impl Steps {
    /// Composes the deployments of `rows` from the library `models`.
    ///
    /// # Errors
    /// A part that is not in the library.
    pub fn new(rows: Vec<Step>, models: &Path) -> Result<Self, AccuracyError> {
        let mut hardware = BTreeMap::new();
        for step in &rows {
            if !hardware.contains_key(&step.parts) {
                let model = Model::compose(models, &step.parts)?;
                let composed = model.hardware.expect("composed of hardware");
                hardware.insert(step.parts.clone(), composed);
            }
        }
        Ok(Self { rows, hardware })
    }

    /// What the first deployment's engine reaches of its GPU.
    pub fn efficiency(&self) -> Option<&Efficiency> {
        self.hardware.values().next().map(|hardware| &hardware.efficiency)
    }

    /// The formula's error in each step's time, in percent of the measured time.
    pub fn errors(&self) -> Vec<f64> {
        self.errors_with(None)
    }

    /// As [`errors`](Self::errors), if all deployments reached `efficiency`.
    pub fn errors_with(&self, efficiency: Option<&Efficiency>) -> Vec<f64> {
        let formulas = self.formulas(efficiency);
        let error =
            |step: &Step| percent(formulas[&step.parts].step(&step.work()).as_millis(), step.ms);
        self.rows.iter().map(error).collect()
    }

    /// If all deployments reached `efficiency`: the formula's error in each part
    /// of each step and in the whole, as a share of the measured whole.
    pub fn part_errors(&self, efficiency: &Efficiency) -> Vec<f64> {
        let formulas = self.formulas(Some(efficiency));
        let mut errors = Vec::with_capacity(self.rows.len() * (PARTS + 1));
        for step in &self.rows {
            let StepParts {
                gemm_s,
                logits_s,
                reduce_s,
                prompt_attention_s,
                decode_attention_s,
                elementwise_s,
            } = formulas[&step.parts].parts_s(&step.work());
            let computed = [gemm_s, logits_s, reduce_s, prompt_attention_s, decode_attention_s];
            errors.extend(
                computed.iter().zip(&step.parts_ms).map(|(s, ms)| (s * 1e3 - ms) / step.ms),
            );
            let whole_s = elementwise_s + computed.iter().sum::<f64>();
            errors.push(whole_s * 1e3 / step.ms - 1.0);
        }
        errors
    }

    fn formulas(&self, efficiency: Option<&Efficiency>) -> BTreeMap<&Parts, Roofline> {
        let formula = |hardware: &Hardware| match efficiency {
            None => hardware.roofline(0),
            Some(efficiency) => {
                Hardware { efficiency: efficiency.clone(), ..hardware.clone() }.roofline(0)
            }
        };
        self.hardware.iter().map(|(parts, hardware)| (parts, formula(hardware))).collect()
    }
}
