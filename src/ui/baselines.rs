//! What KV-aware routing and round robin give at every load, whatever the arms are: the
//! experiment's sweep, run in the background.

use super::plan::Plan;
use crate::experiment::results::{Point, Provenance, Summary};
use crate::experiment::{RunOptions, run};
use crate::results::read_summary;
use serde_json::{Value, json};
use std::path::Path;

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

/// The policies of baselines.
const POLICIES: [&str; 2] = ["round_robin", "kv"];

/// Reads the sweep where `sim run` has saved it, in `folder`, or runs it; says why there is none.
pub(super) fn baselines(plan: &Plan, folder: &Path) -> Value {
    if let Some(points) = saved(plan, folder) {
        return json!({ "points": points, "from": folder });
    }
    match sweep(plan) {
        Ok(points) => json!({ "points": points }),
        Err(why) => json!({ "points": [], "why": why }),
    }
}

/// The points of this very experiment in `folder`, if this version has run it there.
fn saved(plan: &Plan, folder: &Path) -> Option<Vec<Value>> {
    let summary = read_summary(folder).ok()?;
    let Provenance { config_hash, version, .. } = &summary.provenance;
    if *config_hash != plan.config_hash || version != env!("CARGO_PKG_VERSION") {
        return None;
    }
    let points = points(&summary, plan.load_key());
    let has = |policy: &&str| points.iter().any(|point| point["policy"] == *policy);
    POLICIES.iter().all(has).then_some(points)
}

fn sweep(plan: &Plan) -> Result<Vec<Value>, String> {
    let text = plan.baselines().ok_or("this workload has no load that could be swept")?;
    let experiment = plan.read(&text).map_err(|wrong| wrong.to_string())?;
    // One at a time: the session goes on beside it.
    let options = RunOptions::default().jobs(1);
    let outcome = run(&experiment, options).map_err(|wrong| wrong.to_string())?;
    Ok(points(&outcome.summary, plan.load_key()))
}

/// Those that differ in policy and load alone.
fn points(summary: &Summary, load_key: &str) -> Vec<Value> {
    let is_plain = |point: &&Point| {
        point.params.keys().all(|key| key == load_key || key == "router.policy")
            && point.params.contains_key(load_key)
            && POLICIES
                .iter()
                .any(|policy| point.params.get("router.policy") == Some(&json!(policy)))
    };
    let points = summary.points.iter().filter(is_plain).map(|point| {
        let metrics = METRICS.iter().filter_map(|name| {
            let value = point.metrics.get(*name)?;
            let [low, high] = value.ci95.map_or([None; 2], |bounds| bounds.map(Some));
            Some(((*name).to_owned(), json!([value.mean?, low, high])))
        });
        json!({
            "load": point.params.get(load_key),
            "policy": point.params.get("router.policy"),
            "metrics": metrics.collect::<serde_json::Map<String, Value>>(),
        })
    });
    points.collect()
}
