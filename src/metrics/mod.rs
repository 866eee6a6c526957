//! The catalogue of metrics: what each is called, its unit, which direction is
//! better, under which settings it exists, and what it is.
//!
//! The recorder names what it writes by the constants of the
//! [catalogue]; tables, figures, checks of names, the schema and
//! `docs/metrics.md` read the same entries. A name is made of a stem and a
//! statistic, as `ttft_ms` and `p95`.

pub mod catalogue;
mod kind;
mod name;
mod numbers;
mod page;

pub use catalogue::CATALOGUE;
pub use kind::{Better, MetricKind, Needs, Statistic};
pub(crate) use name::rank;
pub use name::{MAIN, Metric, check_name, directed, full_name, pool_of};
pub use numbers::{rounded, short, signed};
pub use page::page;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_split_into_stem_and_statistic() {
        let p95 = Metric::of("ttft_ms_p95");
        assert_eq!((p95.stem.as_str(), p95.label.as_str()), ("ttft_ms", "TTFT p95"));
        assert_eq!(p95.with_unit(), "TTFT p95 (ms)");
        assert_eq!(Metric::of("hit_ratio_request_mean").stem, "hit_ratio_request_mean");
        assert_eq!(Metric::of("inflight_spread_max").label, "in-flight spread max");
        assert_eq!(Metric::of("requests_per_s").stem, "requests_per_s");
        let unknown = Metric::of("colour_p50");
        assert_eq!((unknown.label.as_str(), unknown.better), ("colour p50", None));
        assert_eq!(Metric::of("_p50").stem, "_p50");
    }

    #[test]
    fn ratios_differ_in_points_and_the_rest_in_percent() {
        assert_eq!(Metric::of("hit_ratio").difference(0.75, 0.5), Some(25.0));
        assert_eq!(Metric::of("ttft_ms_p50").difference(75.0, 50.0), Some(50.0));
        assert_eq!(Metric::of("ttft_ms_p50").difference(75.0, 0.0), None);
        assert_eq!(Metric::of("preemptions").difference(0.0, 0.0), None);
    }

    #[test]
    fn a_misspelt_metric_is_refused_with_the_nearest() {
        assert!(check_name("metric", "itl_ms_p50").is_ok());
        let bare = check_name("metric", "itl_ms").unwrap_err().to_string();
        let forms = "with a statistic, `itl_ms_` and one of mean, p50, p90, p95, p99, max";
        assert!(bare.ends_with(forms), "{bare}");
        for name in ["queue_spikes", "queue_spikes_max", "finished", "running_mean"] {
            assert!(check_name("metric", name).is_ok(), "{name}");
        }
        let error = check_name("metric", "tftt_ms_p50").unwrap_err().to_string();
        assert_eq!(
            error,
            "metric = tftt_ms_p50: must be the name of a metric; the nearest one is `ttft_ms_p50`"
        );
        let error = check_name("metric", "nope").unwrap_err().to_string();
        assert!(error.starts_with("metric = nope: must be the name of a metric, like `ttft_ms_"));
    }

    #[test]
    fn numbers_are_rounded_to_what_they_are_worth() {
        let shown = |mean: f64, half: f64| {
            let round = rounded(mean, half);
            format!("{} ±{}", round(mean), round(half))
        };
        assert_eq!(shown(48.2, 2.13e-14), "48.2 ±0.0");
        assert_eq!(shown(1455.3, 663.7), "1460 ±660");
        assert_eq!(shown(2566.0, 1234.0), "2600 ±1200");
        assert_eq!(shown(391.4, 3.17), "391 ±3");
        assert_eq!(shown(0.5, 0.0123), "0.500 ±0.012");
        assert_eq!(shown(3.0e-7, 1.0e-8), "3.00e-7 ±1.00e-8");
    }

    #[test]
    fn numbers_are_short_and_claim_no_false_direction() {
        let texts: Vec<String> =
            [3143.2, 274.4, 28.44, 2.571, 0.9, 0.0, 1e-7, 99.97].map(short).into();
        assert_eq!(texts, ["3143", "274", "28.4", "2.57", "0.900", "0", "1.00e-7", "100"]);
        assert_eq!([signed(-24.4), signed(3.12), signed(-0.01)], ["-24", "+3.1", "0.0"]);
        assert_eq!([signed(556_527.0), signed(-1_234.0)], ["+557000", "-1230"]);
        assert_eq!([signed(999.6), signed(f64::INFINITY)], ["+1000", "+inf"]);
    }

    #[test]
    fn every_name_of_the_catalogue_leads_back_to_its_entry() {
        let mut stems = BTreeSet::new();
        for kind in CATALOGUE {
            assert!(stems.insert(kind.stem), "{} is there twice", kind.stem);
            assert!(!kind.statistics.is_empty(), "{} reports nothing", kind.stem);
            let definition = kind.definition;
            assert!(definition.ends_with('.') && !definition.contains(['|', '\n']), "{definition}");
            for name in kind.names() {
                let found = check_name("metric", &name).expect("a name of the catalogue");
                assert_eq!(found.stem, kind.stem, "{name}");
                assert_eq!(Metric::of(&name).stem, kind.stem, "{name}");
            }
        }
    }
}
