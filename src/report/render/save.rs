//! The files `summary.json` and `summary.csv`, as bytes; who writes them decides where.

use crate::experiment::results::{Metric, SCHEMA_VERSION, Summary};
use crate::report::view::plain;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Why a `summary.json` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Written by a version of `sim` with another layout.
    #[error(
        "{}: schema_version = {found}: this version of sim ({}) reads {SCHEMA_VERSION}; \
         {written_by}run the experiment again or use the sim that wrote it",
        file.display(), env!("CARGO_PKG_VERSION")
    )]
    Schema {
        /// The file.
        file: PathBuf,
        /// The version seen.
        found: u64,
        /// `written by sim x.y.z; `, if the file says so.
        written_by: String,
    },
    /// Not the JSON that `sim run` writes.
    #[error("{}:{line}:{column}: {message}; not a file of results as `sim run` writes it", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
}

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

/// Reads a [`Summary`], or another file of results; `file` is used in messages.
///
/// # Errors
/// If the text is no such JSON, or of another schema version.
pub fn from_json<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, ReadError> {
    /// As much as any version of the layout has.
    #[derive(Deserialize)]
    struct Head {
        schema_version: u64,
        provenance: Option<HeadProvenance>,
    }
    #[derive(Deserialize)]
    struct HeadProvenance {
        version: Option<String>,
    }
    let json = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        // The place is said once, in front.
        let place = format!(" at line {line} column {column}");
        let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
        ReadError::Json { file: file.into(), line, column, message }
    };
    let head: Head = serde_json::from_str(text).map_err(json)?;
    if head.schema_version != u64::from(SCHEMA_VERSION) {
        let version = head.provenance.and_then(|provenance| provenance.version);
        return Err(ReadError::Schema {
            file: file.into(),
            found: head.schema_version,
            written_by: version.map(|v| format!("it was written by sim {v}; ")).unwrap_or_default(),
        });
    }
    serde_json::from_str(text).map_err(json)
}

/// `summary.csv`: one row per point. First the parameters, then for every
/// metric its mean and the bounds of its 95 % interval; what is undefined is empty.
pub fn to_csv(summary: &Summary) -> String {
    let params: BTreeSet<&str> =
        summary.points.iter().flat_map(|p| p.params.keys()).map(String::as_str).collect();
    let metrics: BTreeSet<&str> =
        summary.points.iter().flat_map(|p| p.metrics.keys()).map(String::as_str).collect();
    let mut header: Vec<String> = params.iter().map(|key| (*key).to_owned()).collect();
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

fn undefine_non_finite(metric: &mut Metric) {
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

    fn read(text: &str) -> Result<Summary, ReadError> {
        from_json(text, Path::new("plots/x/summary.json"))
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_to_the_last_bit(summary in example::any_summary()) {
            // Means of huge numbers overflow; those are written as undefined.
            let text = to_json(&summary);
            let back = read(&text).unwrap();
            prop_assert_eq!(to_json(&back), text);
            for (a, b) in summary.points.iter().zip(&back.points) {
                prop_assert_eq!(&a.params, &b.params);
                for (name, metric) in &a.metrics {
                    prop_assert_eq!(&metric.per_seed, &b.metrics[name].per_seed);
                }
            }
        }

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
    fn numbers_that_are_not_finite_become_undefined() {
        let mut builder = Builder::new("odd", 2);
        builder.load("kv", 60, &[("queue_skew", &[Some(f64::NAN), Some(1.0)])]);
        let back = read(&to_json(&builder.build())).unwrap();
        let metric = &back.points[0].metrics["queue_skew"];
        assert_eq!((metric.mean, metric.ci95), (None, None));
        assert_eq!(metric.per_seed, [None, Some(1.0)]);
    }

    #[test]
    fn other_files_are_refused_with_the_way_out() {
        let mut old = example::doks();
        old.schema_version = 99;
        let stray = to_json(&Builder::new("x", 1).build()).replace("\"points\"", "\"dots\"");
        insta::assert_snapshot!(
            [
                read(&to_json(&old)).unwrap_err().to_string(),
                read("{\"schema_version\": 7}").unwrap_err().to_string(),
                read("{\n]").unwrap_err().to_string(),
                read("{}").unwrap_err().to_string(),
                read(&stray).unwrap_err().to_string(),
            ]
            .join("\n"),
            @r"
            plots/x/summary.json: schema_version = 99: this version of sim (0.1.0) reads 1; it was written by sim 0.1.0; run the experiment again or use the sim that wrote it
            plots/x/summary.json: schema_version = 7: this version of sim (0.1.0) reads 1; run the experiment again or use the sim that wrote it
            plots/x/summary.json:2:1: key must be a string; not a file of results as `sim run` writes it
            plots/x/summary.json:1:2: missing field `schema_version`; not a file of results as `sim run` writes it
            plots/x/summary.json:12:8: unknown field `dots`, expected one of `schema_version`, `provenance`, `points`; not a file of results as `sim run` writes it
            "
        );
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
