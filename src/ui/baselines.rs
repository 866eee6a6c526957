//! What KV-aware routing and round robin give at every load, whatever the arms are: the
//! experiment's sweep, run in the background.

use super::plan::Plan;
use crate::experiment::{RunOptions, run};
use crate::settings::plain;
use serde_json::{Value, json};

/// The metrics that the page shows beside a session.
const METRICS: [&str; 11] = [
    "ttft_ms_p50",
    "ttft_ms_p95",
    "itl_ms_p50",
    "itl_ms_p95",
    "inter_token_ms_p50",
    "inter_token_ms_p95",
    "e2e_ms_p50",
    "e2e_ms_p95",
    "requests_per_s",
    "output_tokens_per_s",
    "hit_ratio",
];

/// Runs the sweep; says why there is none.
pub(super) fn baselines(plan: &Plan) -> Value {
    match sweep(plan) {
        Ok(points) => json!({ "points": points }),
        Err(why) => json!({ "points": [], "why": why }),
    }
}

fn sweep(plan: &Plan) -> Result<Vec<Value>, String> {
    let text = plan.baselines().ok_or("this workload has no load that could be swept")?;
    let experiment = plan.read(&text).map_err(|wrong| wrong.to_string())?;
    // One at a time: the session goes on beside it.
    let options = RunOptions::default().jobs(1);
    let outcome = run(&experiment, options).map_err(|wrong| wrong.to_string())?;
    let key = plan.load_key();
    let points = outcome.summary.points.iter().map(|point| {
        let metrics = METRICS.iter().filter_map(|name| {
            let value = point.metrics.get(*name)?;
            let [low, high] = value.ci95.map_or([None; 2], |bounds| bounds.map(Some));
            Some(((*name).to_owned(), json!([value.mean?, low, high])))
        });
        json!({
            "load": point.params.get(key),
            "policy": point.params.get("router.policy").map(plain),
            "metrics": metrics.collect::<serde_json::Map<String, Value>>(),
        })
    });
    Ok(points.collect())
}
