//! What is asked.

use super::prices::Prices;
use serde::Serialize;

/// What is asked about an experiment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Asked {
    /// Targets to meet, like `ttft_ms_p95=600ms`, or `slo`; all of them. None: `slo`.
    pub within: Vec<String>,
    /// Prices; without them hours of GPUs are counted.
    pub prices: Option<Prices>,
    /// How sure an interval has to be, above 0.5 and below 1.
    pub confidence: f64,
    /// The share by which the load grows that the winner is tried with.
    pub more_load: f64,
    /// Compare the winner with its neighbours too, with all seeds.
    #[serde(skip)]
    pub explain: bool,
    /// Compare the winner with the fleet as the experiment has it beside its sweep.
    #[serde(skip)]
    pub now: bool,
    /// Simulate every candidate with every seed in place of the search.
    #[serde(skip)]
    pub full_grid: bool,
    /// What stands before the names of these in messages: `--` where they are arguments.
    #[serde(skip)]
    pub prefix: &'static str,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            within: Vec::new(),
            prices: None,
            confidence: 0.95,
            more_load: 0.2,
            explain: false,
            now: false,
            full_grid: false,
            prefix: "",
        }
    }
}
