//! The files `summary.json` and `summary.csv`, as bytes; who writes them decides where.

use crate::experiment::results::{MetricValue, Summary};
use crate::report::view::plain;
use serde::Serialize;
use std::collections::BTreeSet;

/// `summary.json`: keys in fixed order, floats in the shortest form that reads
/// back to the same bits, a line feed at the end.
///
/// A number that is not finite is written as `null`, which means "undefined":
/// JSON has no other way to say it, and losing the whole file would be worse.
pub fn to_json(summary: &Summary) -> String {
    let mut summary = summary.clone();
    for metric in summary.points.iter_mut().flat_map(|point| point.metrics.values_mut()) {
        undefine_non_finite(metric);
    }
    json(&summary)
}

/// Plain data with text keys as JSON for people, a line feed at the end.
pub fn json(data: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(data).expect("plain data has no way to fail");
    text.push('\n');
    text
}

/// The column of [`to_csv`] that says which step times are borrowed or scaled.
const STEP_TIMES: &str = "step_times";

/// `summary.csv`: one row per point. First the parameters, and which models' step times are
/// borrowed or scaled, if any are; then for every metric its mean and the bounds of its 95 %
/// interval; what is undefined is empty.
pub fn to_csv(summary: &Summary) -> String {
    let params: BTreeSet<&str> =
        summary.points.iter().flat_map(|p| p.params.keys()).map(String::as_str).collect();
    let metrics: BTreeSet<&str> =
        summary.points.iter().flat_map(|p| p.metrics.keys()).map(String::as_str).collect();
    // What step times are worth has a column where it has to be said.
    let marks = &summary.provenance.step_times;
    let mark = (!marks.is_empty()).then(|| marks.join("; "));
    let mut header: Vec<String> = params.iter().map(|key| (*key).to_owned()).collect();
    header.extend(mark.as_ref().map(|_| STEP_TIMES.to_owned()));
    for name in &metrics {
        header.extend([
            (*name).to_owned(),
            format!("{name}_ci95_low"),
            format!("{name}_ci95_high"),
        ]);
    }
    let mut rows = vec![header];
    for point in &summary.points {
        let mut row: Vec<String> = params
            .iter()
            .map(|key| point.params.get(*key).map(plain).unwrap_or_default())
            .collect();
        row.extend(mark.clone());
        for name in &metrics {
            let metric = point.metrics.get(*name);
            let bound = |i: usize| metric.and_then(|m| m.ci95).map(|bounds| bounds[i]);
            row.extend([metric.and_then(|m| m.mean), bound(0), bound(1)].map(cell));
        }
        rows.push(row);
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        // A set of results without a single column has no header either.
        if !row.is_empty() {
            writer.write_record(&row).expect("rows of equal length into memory");
        }
    }
    let bytes = writer.into_inner().expect("memory takes every byte");
    String::from_utf8(bytes).expect("made from text")
}

/// The shortest form that reads back to the same bits.
fn cell(value: Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map(|v| v.to_string()).unwrap_or_default()
}

fn undefine_non_finite(metric: &mut MetricValue) {
    let keep = |value: &mut Option<f64>| *value = value.filter(|v| v.is_finite());
    keep(&mut metric.mean);
    metric.per_seed.iter_mut().for_each(keep);
    metric.ci95 = metric.ci95.filter(|bounds| bounds.iter().all(|b| b.is_finite()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::{self, Builder};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_csv_has_a_row_per_point_and_the_exact_means(summary in example::any_summary()) {
            let text = to_csv(&summary);
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let header = reader.headers().unwrap().clone();
            let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
            prop_assert_eq!(rows.len(), summary.points.len());
            for (row, point) in rows.iter().zip(&summary.points) {
                for (name, metric) in &point.metrics {
                    let column = header.iter().position(|h| h == name).unwrap();
                    let mean = row[column].parse::<f64>().ok();
                    prop_assert_eq!(mean, metric.mean.filter(|m| m.is_finite()));
                }
            }
        }
    }

    #[test]
    fn both_files_say_whose_step_times_are_borrowed() {
        let mut builder = Builder::new("borrowed", 1);
        builder.load("kv", 60, &[("hit_ratio", &[Some(0.5)])]);
        let mut summary = builder.build();
        assert!(!to_csv(&summary).contains(STEP_TIMES) && !to_json(&summary).contains(STEP_TIMES));
        summary.provenance.step_times = vec!["model a: step times are borrowed".to_owned()];
        insta::assert_snapshot!(to_csv(&summary), @r"
        router.policy,workload.concurrency,step_times,hit_ratio,hit_ratio_ci95_low,hit_ratio_ci95_high
        kv,60,model a: step times are borrowed,0.5,,
        ");
        assert!(to_json(&summary).contains("step times are borrowed"));
    }

    #[test]
    fn the_layout_of_both_files() {
        let mut builder = Builder::new("layout", 2);
        builder.load("kv", 60, &[("ttft_ms_p50", &[Some(0.1), Some(0.3)])]);
        builder.load("kv, \"odd\"", 80, &[("hit_ratio", &[None, Some(0.5)])]);
        let summary = builder.build();
        insta::assert_snapshot!(to_csv(&summary), @r#"
        router.policy,workload.concurrency,hit_ratio,hit_ratio_ci95_low,hit_ratio_ci95_high,ttft_ms_p50,ttft_ms_p50_ci95_low,ttft_ms_p50_ci95_high
        kv,60,,,,0.2,-1.070620473617469,1.4706204736174688
        "kv, ""odd""",80,0.5,,,,,
        "#);
        insta::assert_snapshot!(to_json(&summary), @r#"
        {
          "schema_version": 1,
          "provenance": {
            "experiment": "layout",
            "version": "0.1.0",
            "config_hash": "abababababababababababababababababababababababababababababababab",
            "seeds": [
              1,
              2
            ],
            "digest": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
          },
          "points": [
            {
              "params": {
                "router.policy": "kv",
                "workload.concurrency": 60
              },
              "metrics": {
                "ttft_ms_p50": {
                  "mean": 0.2,
                  "per_seed": [
                    0.1,
                    0.3
                  ],
                  "ci95": [
                    -1.070620473617469,
                    1.4706204736174688
                  ]
                }
              }
            },
            {
              "params": {
                "router.policy": "kv, \"odd\"",
                "workload.concurrency": 80
              },
              "metrics": {
                "hit_ratio": {
                  "mean": 0.5,
                  "per_seed": [
                    null,
                    0.5
                  ],
                  "ci95": null
                }
              }
            }
          ]
        }
        "#);
    }
}
