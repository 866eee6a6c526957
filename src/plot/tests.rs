//! Laws of figures, on made-up result sets.

use super::*;
use crate::report::example::{self, Builder};
use crate::report::view::POLICY;
use proptest::prelude::*;
use serde_json::json;

fn draw(summary: &Summary, published: Option<&Published>) -> Vec<Figure> {
    figures(summary, published, &Choice::default()).unwrap()
}

/// SVGs of every group of metrics; PNGs of random results would take too long.
fn svgs(summary: &Summary, published: &Published, x: Option<&str>) -> Vec<String> {
    let view = View::new(summary, x).unwrap();
    let comparison = Comparison::new(&view, published);
    let all: Vec<String> = view.metric_names().into_iter().map(str::to_owned).collect();
    let groups = groups(&view, &all).unwrap();
    groups
        .into_iter()
        .map(|metrics| svg(&Drawing::new(&view, Some(&comparison), metrics)))
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
    let decoder = png::Decoder::new(std::io::Cursor::new(&figure.png));
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
    let choice = |metric: &str| Choice { x: None, metrics: vec![metric.to_owned()] };
    let error = figures(&summary, None, &choice("queue_ms_p50")).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "y = queue_ms_p50: must be a metric that these results have: ttft_ms_p50, "
        ),
        "{error}"
    );
    let unknown = Choice { x: Some("cluster.workers".to_owned()), metrics: Vec::new() };
    assert!(figures(&summary, None, &unknown).is_err());
}

#[test]
fn every_published_point_has_its_marker() {
    // A hollow marker is two rings, one of paper and one of its colour.
    let (summary, published) = (example::doks(), example::doks_published());
    let areas = |svg: &str| svg.matches("<polygon").count();
    let with = figures(&summary, Some(&published), &Choice::default()).unwrap();
    let without = figures(&summary, None, &Choice::default()).unwrap();
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
