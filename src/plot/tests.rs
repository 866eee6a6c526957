//! Laws of figures, on made-up result sets.

use super::figure::svg;
use super::sheet::Form;
use super::*;
use crate::experiment::results::{LatencyCurve, LatencyCurves};
use crate::report::example::{self, Builder};
use crate::report::view::POLICY;
use proptest::prelude::*;
use serde_json::json;

fn draw(summary: &Summary, published: Option<&Published>) -> Vec<Figure> {
    figures(summary, published, &FigureOptions::default(), DrawnFor::Files).unwrap()
}

/// SVGs of every group of metrics; PNGs of random results would take too long.
fn svgs(summary: &Summary, published: &Published, x: Option<&str>) -> Vec<String> {
    let view = View::new(summary, x).unwrap();
    let comparison = Comparison::new(&view, published);
    let all: Vec<String> = view.metric_names().into_iter().map(str::to_owned).collect();
    let groups = groups(&view, &all).unwrap();
    groups
        .into_iter()
        .map(|metrics| svg(&Drawing::new(&view, Some(&comparison), metrics), Form::Wide))
        .collect()
}

#[test]
fn the_same_results_give_the_same_bytes() {
    let (summary, published) = (example::doks(), example::doks_published());
    let first = draw(&summary, Some(&published));
    let names: Vec<&str> = first.iter().map(|figure| figure.name.as_str()).collect();
    assert_eq!(names, ["ttft_ms", "itl_ms", "output_tokens_per_s", "hit_ratio"]);
    assert_eq!(first, draw(&summary, Some(&published)));
}

#[test]
fn the_png_is_twice_the_size_of_the_svg() {
    let figure = draw(&example::doks(), None).swap_remove(0);
    let decoder = png::Decoder::new(std::io::Cursor::new(figure.png.as_ref().unwrap()));
    let reader = decoder.read_info().unwrap();
    let (width, height) = (reader.info().width / 2, reader.info().height / 2);
    let head = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {} {}\"",
        width * 4,
        height * 4
    );
    assert!(figure.svg.starts_with(&head), "{}", &figure.svg[..120]);
}

#[test]
fn what_was_asked_for_has_to_be_there() {
    let summary = example::doks();
    let choice = |metric: &str| FigureOptions {
        metrics: vec![metric.to_owned()],
        ..FigureOptions::default()
    };
    let error =
        figures(&summary, None, &choice("queue_ms_p50"), DrawnFor::Page).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "y = queue_ms_p50: must be a metric that these results have: ttft_ms_p50, "
        ),
        "{error}"
    );
    let unknown =
        FigureOptions { x: Some("cluster.workers".to_owned()), ..FigureOptions::default() };
    assert!(figures(&summary, None, &unknown, DrawnFor::Page).is_err());
}

#[test]
fn every_published_point_has_its_marker() {
    // A hollow marker is two rings, one of paper and one of its colour.
    let (summary, published) = (example::doks(), example::doks_published());
    let areas = |svg: &str| svg.matches("<polygon").count();
    let with =
        figures(&summary, Some(&published), &FigureOptions::default(), DrawnFor::Page).unwrap();
    let without = figures(&summary, None, &FigureOptions::default(), DrawnFor::Page).unwrap();
    // TTFT p50 and p95 of 14 points, and two entries of the legend.
    assert_eq!(areas(&with[0].svg), areas(&without[0].svg) + 2 * (2 * 14 + 2));
}

#[test]
fn text_from_results_cannot_break_the_svg() {
    let mut builder = Builder::new("<script>&\"", 1);
    builder.point(&[(POLICY, json!("<b>"))], &[("ttft_ms_p50", &[Some(1.0)])]);
    let svg = draw(&builder.build(), None).swap_remove(0).svg;
    assert!(svg.contains("&lt;script&gt;&amp;&quot;") && !svg.contains("<b>"), "{svg}");
}

#[test]
fn series_without_a_common_place_are_bars_that_name_theirs() {
    let mut builder = Builder::new("pairs", 2);
    for (policy, workers) in [("round_robin", 3), ("kv", 12)] {
        let params = [(POLICY, json!(policy)), ("cluster.workers", json!(workers))];
        builder.point(&params, &[("ttft_ms_p50", &[Some(1.0), Some(2.0)])]);
    }
    let figure = draw(&builder.build(), None).swap_remove(0);
    assert!(figure.alt.starts_with("Bars of TTFT p50 (ms), for round_robin, "), "{}", figure.alt);
    assert!(figure.alt.contains("kv, workers 12 1.50"), "{}", figure.alt);
    assert!(figure.svg.contains("kv, workers 12"), "{}", figure.svg);
}

#[test]
fn many_series_have_upright_intervals_in_place_of_bands() {
    let with = |policies: usize| {
        let mut builder = Builder::new("many", 2);
        for policy in 0..policies {
            for load in [60, 120] {
                let values = [Some(100.0), Some(120.0 + f64::from(load))];
                builder.load(&format!("p{policy}"), load, &[("ttft_ms_p95", &values)]);
            }
        }
        draw(&builder.build(), None).swap_remove(0).svg
    };
    // Bands are the only areas that shine through, but for their sample in the legend.
    let bands = |svg: &str| svg.matches("opacity=\"0.2\"").count();
    assert_eq!((bands(&with(4)), bands(&with(14))), (4, 0));
}

#[test]
fn intervals_reach_neither_below_zero_nor_far_down_a_logarithmic_scale() {
    let mut builder = Builder::new("wide", 2);
    for (load, values) in [(60, [300.0, 310.0]), (120, [100.0, 9000.0])] {
        builder.load("kv", load, &[("ttft_ms_p95", &values.map(Some))]);
    }
    let summary = builder.build();
    let view = View::new(&summary, None).unwrap();
    let metric = Metric::of("ttft_ms_p95");
    let drawing = Drawing::new(&view, None, vec![metric.clone()]);
    assert!(summary.points[1].metrics["ttft_ms_p95"].ci95.unwrap()[0] < 0.0);
    assert!(drawing.all_values(&metric).into_iter().all(|value| value >= 150.0));
}

/// Distributions of two points as runs give them: ascending.
fn distributions(summary: &Summary) -> Vec<LatencyCurves> {
    let rising = |scale: f64| crate::recorder::SHARES.map(|share| scale * share).to_vec();
    let distribution = |scale| LatencyCurve {
        mean: rising(scale),
        ci95: Some([rising(0.8 * scale), rising(1.2 * scale)]),
    };
    let point = |i: usize| {
        let names = ["ttft_ms", "itl_ms", "e2e_ms"];
        names.map(|name| (name.to_owned(), distribution((i + 1) as f64))).into()
    };
    (0..summary.points.len()).map(point).collect()
}

#[test]
fn distributions_are_drawn_at_the_last_load() {
    let summary = example::doks();
    let view = View::new(&summary, None).unwrap();
    let all = distributions(&summary);
    let figure = Cdfs::new(&view, &all, None).unwrap().figure(DrawnFor::Page);
    assert_eq!(figure.title, "distribution of latencies at concurrency 180");
    assert!(figure.alt.contains("TTFT, ITL and end to end"), "{}", figure.alt);
    // A band and a line with markers for both policies in each panel.
    assert_eq!(figure.svg.matches("opacity=\"0.2\"").count(), 6);
    let nothing = vec![LatencyCurves::new(); summary.points.len()];
    assert!(Cdfs::new(&view, &nothing, None).is_none());
}

#[test]
fn figures_tell_those_who_cannot_see_them() {
    for figure in draw(&example::doks(), Some(&example::doks_published())) {
        let label = format!("role=\"img\" aria-label=\"{}. {}\"", figure.title, figure.alt);
        assert!(figure.svg.contains(&label), "{}", figure.alt);
        assert!(figure.alt.contains("concurrency") && figure.alt.contains("kv"), "{}", figure.alt);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_result_set_makes_it_panic(summary in example::any_summary()) {
        let published = example::doks_published();
        for svg in svgs(&summary, &published, None) {
            prop_assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf,"));
        }
    }
}
