//! What judgements go by besides the numbers: how small a difference may be,
//! the targets of `[slo]`, what variants set, and remarks on the experiment.

use crate::experiment::results::Point;
use crate::experiment::{Experiment, SloSettings};
use crate::report::view::VARIANT;
use crate::report::view::details::{Details, WORTH};
use crate::settings::{Invalid, parse_duration};
use crate::time::SimDuration;
use crate::workload::WorkloadSettings;
use serde_json::Value;
use std::collections::BTreeMap;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The smallest difference worth having: percent, or percentage points of ratios.
    pub worth: f64,
    /// Targets of a good request by the key of `[slo]`, `ttft` before `itl`.
    pub targets: Vec<(String, SimDuration)>,
    /// The share of requests that has to be good for a point to meet `[slo]`.
    pub attainment: f64,
    /// By the name of a variant, what it sets: dotted keys with their values.
    pub variants: BTreeMap<String, BTreeMap<String, Value>>,
    /// What has to be said of the experiment before anything else.
    pub remarks: Vec<String>,
}

impl Default for Terms {
    fn default() -> Self {
        let (targets, variants, remarks) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { worth: WORTH, targets, attainment: SloSettings::ATTAINMENT, variants, remarks }
    }
}

impl Terms {
    /// Those of saved results.
    pub fn of(details: &Details) -> Self {
        let slo = &details.settings["settings"]["slo"];
        let target = |key: &str| {
            let limit = parse_duration(slo.get(key)?.as_str()?).ok()?;
            Some((key.to_owned(), limit))
        };
        Self {
            worth: details.worth,
            targets: ["ttft", "itl"].into_iter().filter_map(target).collect(),
            attainment: slo["attainment"].as_f64().unwrap_or(SloSettings::ATTAINMENT),
            variants: variants(&details.settings),
            remarks: details.remarks.clone(),
        }
    }

    /// The share of requests that has to be good at this point, which may be swept.
    pub fn attainment_at(&self, point: &Point) -> f64 {
        let swept = point.params.get("slo.attainment").and_then(Value::as_f64);
        swept.unwrap_or(self.attainment)
    }

    /// True if a point meets `[slo]`: enough of its requests are good.
    pub fn are_met_by(&self, point: &Point) -> bool {
        let attained = point.metrics.get("slo_attainment").and_then(|metric| metric.mean);
        attained.is_some_and(|attained| attained >= self.attainment_at(point))
    }

    /// The targets with the share: `TTFT <= 600 ms, for 95 % of requests`.
    pub fn slo_text(&self) -> String {
        // 99.9 % is no 99.90000000000001 %.
        let percent = (1e7 * self.attainment).round() / 1e5;
        format!("{}, for {percent} % of requests", self.targets_text())
    }

    /// The targets in words: `TTFT <= 600 ms and ITL <= 60 ms`.
    pub fn targets_text(&self) -> String {
        if self.targets.is_empty() {
            return "the targets".to_owned();
        }
        let texts: Vec<String> = self
            .targets
            .iter()
            .map(|(key, limit)| format!("{} <= {} ms", key.to_uppercase(), limit.as_millis()))
            .collect();
        texts.join(" and ")
    }
}

/// Checks a smallest difference worth having as it was typed: `2` or `2%`.
///
/// # Errors
/// If it is not a number from 0 to 100.
pub fn parse_worth(text: &str) -> Result<f64, Invalid> {
    let number = text.trim().trim_end_matches('%').trim().parse::<f64>().ok();
    number
        .filter(|worth| (0.0..=100.0).contains(worth))
        .ok_or_else(|| Invalid::new("worth", text, "a percentage from 0 to 100, like 2%"))
}

/// What has to be said of an experiment before its results.
pub fn remarks(experiment: &Experiment) -> Vec<String> {
    let starts_at_once = experiment.runs.iter().filter_map(|run| {
        let measure = &run.settings.measure;
        let clients = run.settings.workload.concurrency()?;
        let spread = match &*run.settings.workload {
            WorkloadSettings::Conversations(settings) => settings.start_spread,
            WorkloadSettings::Requests(settings) => settings.start_spread,
            _ => SimDuration::ZERO,
        };
        (clients > 1 && measure.warmup.is_zero() && spread.is_zero()).then_some(clients)
    });
    let remark = |clients| {
        format!(
            "No warm-up is set (measure.warmup), and all clients, up to {clients}, send their first \
             request at the same moment: that burst is part of what was measured."
        )
    };
    let marks = experiment.marks.iter().map(|mark| format!("{}.", mark.replacen('m', "M", 1)));
    starts_at_once.max().map(remark).into_iter().chain(marks).collect()
}

/// What the variants of an experiment set, by name: dotted keys with their values. `settings`
/// is all that was set, as [`Experiment::settings`] gives it.
pub(crate) fn variants(settings: &Value) -> BTreeMap<String, BTreeMap<String, Value>> {
    let sweep = settings["sweep"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bundles = sweep.iter().filter(|axis| axis[0] == VARIANT);
    let bundles = bundles.filter_map(|axis| axis[1].as_array()).flatten();
    let variant = |bundle: &Value| {
        let mut set = BTreeMap::new();
        flatten("", bundle, &mut set);
        Some((set.remove("name")?.as_str()?.to_owned(), set))
    };
    bundles.filter_map(variant).collect()
}

/// Tables as dotted keys; everything else is a value.
fn flatten(prefix: &str, value: &Value, set: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, set);
            }
        }
        value => {
            set.insert(prefix.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_what_they_set() {
        let bundle = serde_json::json!({
            "name": "a",
            "router": { "policy": "kv", "feed": { "delay": "1ms" } },
            "cluster.workers": 3,
        });
        let settings =
            serde_json::json!({ "sweep": [["router.policy", ["kv"]], [VARIANT, [bundle]]] });
        let all = variants(&settings);
        let keys: Vec<&str> = all["a"].keys().map(String::as_str).collect();
        assert_eq!(keys, ["cluster.workers", "router.feed.delay", "router.policy"]);
    }
}
