//! The answer in sentences: where one policy beats another, by how much, and where the
//! seeds cannot tell them apart.

use super::by_pool::pools;
use super::places::{places, stretches};
use super::state;
use crate::metrics::{Metric, catalogue, short, signed};
use crate::report::judge::answer::{
    Attainment, Contest, Difference, Sides, Standing, attainment, counted, extent, headlines, most,
    pairings, unequal_fleets,
};
use crate::report::judge::state::{State, percent};
use crate::report::judge::terms::Terms;
use crate::report::view::{Series, VARIANT, View};

/// What happens to workers and requests and is counted, in this order, with its words.
const COUNT_WORDS: [(&str, &str); 14] = [
    ("workers_added", "{} worker(s) added by the planner"),
    ("workers_removed", "{} removed"),
    ("rejected", "{} request(s) rejected"),
    ("rejected_full", "{} over a limit of admission"),
    ("rejected_busy", "{} before busy workers"),
    ("rejected_waited", "{} after too long a wait"),
    ("given_up", "{} request(s) given up by their clients"),
    ("failed", "{} request(s) failed"),
    ("retries", "{} sent again by their clients"),
    ("held_back", "{} held back by the client's connections"),
    ("migrations", "{} moved to another worker"),
    ("recomputed_tokens", "{} token(s) computed again"),
    ("hit_recovery_s", "{} s until hits were back"),
    ("cut_short", "{} answer(s) cut short"),
];

/// What each standing is called before the metric's name, and without it.
const VERBS: [(Standing, &str, &str); 7] = [
    (Standing::Wins, "wins on", "wins"),
    (Standing::Loses, "loses on", "loses"),
    (Standing::Untested, "", ""),
    (Standing::Small, "hardly differs in", "hardly differs"),
    (Standing::Unclear, "no clear difference in", "no clear difference"),
    (Standing::NoAnswer, "no answer on", "no answer"),
    (Standing::Unknown, "not known:", "not known"),
];

impl Difference {
    /// With sign and unit: `-24 %`, `+3.1 pt`; in units of the metric where the baseline is 0.
    pub fn text(&self, metric: &Metric) -> String {
        match self.relative {
            Some(relative) => format!("{} {}", signed(relative), metric.difference_unit()),
            None if self.mean == 0.0 => "0".to_owned(),
            None => {
                let sign = if self.mean > 0.0 { "+" } else { "-" };
                format!("{sign}{} {}", short(self.mean.abs()), metric.unit).trim_end().to_owned()
            }
        }
    }
}

/// `kv against round_robin`; where both router and fleet differ, in what.
pub fn pair_name(view: &View<'_>, terms: &Terms, candidate: usize, baseline: usize) -> String {
    let (a, b) = (&view.series[candidate], &view.series[baseline]);
    // What else the candidate's label says holds for the baseline too, but for variants.
    let is_variant = a.others.contains_key(VARIANT);
    let name = format!("{} against {}", a.label, if is_variant { &b.label } else { &b.policy });
    let differing = unequal_fleets(view, terms, candidate, baseline);
    if differing.is_empty() {
        return name;
    }
    format!("{name} (which differ in {} too)", differing.join(", "))
}

/// What has to be known before the answer is read: points that did not keep up or
/// did not settle, and remarks on the experiment.
pub fn cautions(view: &View<'_>, terms: &Terms) -> Vec<String> {
    state::sentences(view).into_iter().chain(terms.remarks.iter().cloned()).collect()
}

/// One sentence per pair of [`pairings`], whether `[slo]` is met, what happened to
/// fleet and requests, and what goes with the axis.
pub fn answer(view: &View<'_>, terms: &Terms) -> Vec<String> {
    let metrics = headlines(view);
    let sentence = |(candidate, baseline): (usize, usize)| {
        let contests: Vec<Contest> = metrics
            .iter()
            .filter_map(|metric| Contest::new(view, terms, metric, candidate, baseline))
            .collect();
        if contests.is_empty() {
            return None;
        }
        let name = pair_name(view, terms, candidate, baseline);
        let clauses: Vec<String> =
            contests.iter().map(|contest| clause(view, terms, contest)).collect();
        let is_untested = contests.iter().any(|c| c.standings.contains(&Standing::Untested));
        let mark = if is_untested { " [one seed: not tested against chance]" } else { "" };
        Some(format!("{name}: {}{mark}.", clauses.join("; ")))
    };
    pairings(view, terms)
        .into_iter()
        .filter_map(sentence)
        .chain(slo(view, terms))
        .chain(view.series.iter().filter_map(|series| served_by_pool(view, series)))
        .chain(view.series.iter().filter_map(events))
        .chain(left_out(view))
        .chain(view.companions())
        .collect()
}

/// Where `[slo]` is met, and where most good requests are served.
fn slo(view: &View<'_>, terms: &Terms) -> Option<String> {
    let Attainment { nearest: (attained, nearest, x), goodput, is_swept } = attainment(view)?;
    let at = |series: usize, x: f64| {
        let label = &view.series[series].label;
        match &view.axis {
            Some(axis) => {
                let unit = if axis.is_duration { " ms" } else { "" };
                format!("{label} at {} {x}{unit}", axis.name())
            }
            None => label.clone(),
        }
    };
    let targets = if is_swept { "the swept targets".to_owned() } else { terms.slo_text() };
    let mut text = format!("SLO ({targets}): ");
    let met = |series: usize, x: f64| {
        view.series[series].at(x).is_some_and(|point| terms.are_met_by(point))
    };
    text += &match places(view, met) {
        Some(places) => format!("met by {places}"),
        None => {
            format!("met nowhere; nearest is {}, {:.1} %", at(nearest, x), 100.0 * attained)
        }
    };
    if let Some((goodput, series, x)) = goodput {
        text += &format!("; most goodput: {}, {} requests/s", at(series, x), short(goodput));
    }
    Some(text + ".")
}

/// What each pool of a series served, where the fleet has several:
/// `kv: h100 served 8.1 to 19.7 requests/s, h200 9.9 to 25.2.`
fn served_by_pool(view: &View<'_>, series: &Series<'_>) -> Option<String> {
    let of = |pool: &str| {
        let extent = extent(series, &catalogue::POOL_REQUESTS.of_pool(pool))?;
        Some((pool.to_owned(), span(extent, short)))
    };
    let served: Vec<(String, String)> = pools(view).into_iter().filter_map(of).collect();
    let ((first, most), rest) = served.split_first()?;
    let rest = rest.iter().map(|(pool, served)| format!(", {pool} {served}"));
    Some(format!("{}: {first} served {most} requests/s{}.", series.label, rest.collect::<String>()))
}

/// `8.1 to 19.7`, or one number where both are written alike.
fn span((low, high): (f64, f64), written: impl Fn(f64) -> String) -> String {
    let (low, high) = (written(low), written(high));
    if low == high { high } else { format!("{low} to {high}") }
}

/// What happened to workers and requests of a series, where anything was counted:
/// planner actions, failures, migrations, answers that were cut.
fn events(series: &Series<'_>) -> Option<String> {
    let words =
        |(name, words): &(&str, &str)| Some(numbered(words, &span(counted(series, name)?, count)));
    let events: Vec<String> = COUNT_WORDS.iter().filter_map(words).collect();
    (!events.is_empty()).then(|| format!("{}: {}.", series.label, events.join(", ")))
}

/// What a trace has that was not replayed as it stands; the same for all who replay it.
fn left_out(view: &View<'_>) -> Option<String> {
    let rows = most(view, "rows_left_out");
    let rows = (rows > 0.0).then(|| {
        numbered("{} row(s) left out (no answer, or a prompt above max_isl)", &count(rows))
    });
    let sessions = most(view, "sessions_broken");
    let sessions = (sessions > 0.0).then(|| {
        let what = "{} session(s) with a turn that does not go on from the one before";
        numbered(what, &count(sessions))
    });
    let parts: Vec<String> = rows.into_iter().chain(sessions).collect();
    (!parts.is_empty()).then(|| format!("Trace: {}.", parts.join("; ")))
}

/// `what` with a number for `{}`, and its `(s)` as the number wants it.
fn numbered(what: &str, number: &str) -> String {
    what.replacen("{}", number, 1).replacen("(s)", if number == "1" { "" } else { "s" }, 1)
}

/// A mean of counts: whole where it is.
fn count(mean: f64) -> String {
    if mean.fract() == 0.0 || mean >= 99.5 { format!("{mean:.0}") } else { short(mean) }
}

/// `wins on TTFT p95 at concurrency 60-120 (-18 to -32 %), loses at 180 (+329 %)`.
fn clause(view: &View<'_>, terms: &Terms, contest: &Contest) -> String {
    let metric = &contest.metric;
    let mut parts: Vec<String> = Vec::new();
    for (wanted, with_metric, alone) in VERBS {
        let here = contest.places(wanted);
        if here.is_empty() {
            continue;
        }
        // The metric is named once, in the first part.
        let verb = if parts.is_empty() {
            format!("{with_metric} {}", metric.label).trim_start().to_owned()
        } else {
            alone.to_owned()
        };
        let place = if here.len() == contest.standings.len() {
            everywhere(view, wanted)
        } else {
            place(view, &here, parts.is_empty())
        };
        let differences = || here.iter().filter_map(|i| contest.differences[*i].as_ref());
        parts.push(match wanted {
            Standing::Wins | Standing::Loses => {
                format!("{verb}{place} ({})", range(metric, differences()))
            }
            Standing::Untested => format!("{verb} {}{place}", signed_range(metric, differences()))
                .trim_start()
                .to_owned(),
            Standing::Small => {
                let unit = metric.difference_unit();
                format!("{verb}{place} (by less than {} {unit})", terms.worth)
            }
            Standing::NoAnswer => {
                let met = here.iter().filter_map(|i| contest.states[*i]);
                format!("{verb}{place} ({})", why_no_answer(met))
            }
            Standing::Unclear | Standing::Unknown => format!("{verb}{place}"),
        });
    }
    parts.join(", ")
}

/// Why points cannot be compared, by how both sides stand at each of them.
fn why_no_answer(sides: impl Iterator<Item = Sides>) -> String {
    let sides: Vec<Sides> = sides.collect();
    let survivors = survivors(&sides);
    let mut reasons: Vec<String> = sides
        .iter()
        .map(|Sides { states: (a, b), .. }| match (a, b) {
            _ if a.max(b) >= &State::Unserved => survivors.clone(),
            _ if a == b => format!("both are {a}"),
            _ => "neither keeps up".to_owned(),
        })
        .collect();
    reasons.sort();
    reasons.dedup();
    reasons.join(" or ")
}

/// How many requests both sides left unserved, where they did: what is left are survivors.
fn survivors(sides: &[Sides]) -> String {
    let is_unserved = |sides: &&Sides| sides.states.0.max(sides.states.1) == State::Unserved;
    let share = |of: fn(&Sides) -> f64| {
        let shares = sides.iter().filter(is_unserved).map(of);
        let (low, high) = shares.fold((f64::INFINITY, 0.0_f64), |(l, h), s| (l.min(s), h.max(s)));
        let (low, high) = (percent(low), percent(high));
        if low == high { high } else { format!("{} to {high}", low.trim_end_matches(" %")) }
    };
    if !sides.iter().any(|sides| is_unserved(&sides)) {
        return "requests were not served".to_owned();
    }
    let (candidate, baseline) = (share(|sides| sides.unserved.0), share(|sides| sides.unserved.1));
    format!("{candidate} of requests against {baseline} were not served: only survivors are left")
}

/// ` at every concurrency`, or ` at any` of what was not decided; nothing without an axis.
fn everywhere(view: &View<'_>, standing: Standing) -> String {
    let word =
        if matches!(standing, Standing::Unclear | Standing::NoAnswer) { "any" } else { "every" };
    view.axis.as_ref().map(|axis| format!(" at {word} {}", axis.name())).unwrap_or_default()
}

/// ` at concurrency 60-120, 160`; nothing without an axis. The axis is named once.
fn place(view: &View<'_>, here: &[usize], is_first: bool) -> String {
    let Some(axis) = &view.axis else { return String::new() };
    let name = if is_first { format!("{} ", axis.name()) } else { String::new() };
    format!(" at {name}{}", stretches(axis, here))
}

/// From the lowest to the highest difference: `-4.0 to +12 %`.
fn signed_range<'a>(metric: &Metric, differences: impl Iterator<Item = &'a Difference>) -> String {
    let mut sorted: Vec<&Difference> = differences.collect();
    sorted.sort_by(|a, b| a.mean.total_cmp(&b.mean));
    joined(metric, &sorted)
}

/// From the smallest to the largest difference: `-18 to -32 %`.
fn range<'a>(metric: &Metric, differences: impl Iterator<Item = &'a Difference>) -> String {
    let mut sorted: Vec<&Difference> = differences.collect();
    sorted.sort_by(|a, b| {
        let size = |d: &Difference| d.relative.unwrap_or(d.mean).abs();
        size(a).total_cmp(&size(b))
    });
    joined(metric, &sorted)
}

/// The first and the last of differences, the unit once.
fn joined(metric: &Metric, sorted: &[&Difference]) -> String {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return String::new() };
    let (from, to) = (first.text(metric), last.text(metric));
    if from == to {
        return from;
    }
    let unit = format!(" {}", metric.difference_unit());
    format!("{} to {to}", from.strip_suffix(&unit).filter(|_| to.ends_with(&unit)).unwrap_or(&from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::results;
    use crate::report::example::{self, Builder};
    use crate::report::view::POLICY;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    /// Two policies whose TTFT p95 differs by `differences` at 60, 80, ...
    fn two(differences: &[&[f64]]) -> results::Summary {
        let mut builder = Builder::new("two", differences[0].len() as u64);
        for (load, per_seed) in (60u32..).step_by(20).zip(differences) {
            let base: Vec<Option<f64>> =
                (0..per_seed.len()).map(|i| Some(100.0 + i as f64)).collect();
            let with: Vec<Option<f64>> =
                base.iter().zip(*per_seed).map(|(b, d)| b.map(|b| b + d)).collect();
            builder.load("round_robin", load, &[("ttft_ms_p95", &base)]);
            builder.load("kv", load, &[("ttft_ms_p95", &with)]);
        }
        builder.build()
    }

    fn said(summary: &results::Summary) -> String {
        answer(&View::new(summary, None).unwrap(), &Terms::default()).join("\n")
    }

    #[test]
    fn wins_losses_and_ties_are_told_apart() {
        let lower: &[f64] = &[-20.0, -21.0, -20.0];
        let higher: &[f64] = &[50.0, 51.0, 52.0];
        let unclear: &[f64] = &[-10.0, 10.0, 1.0];
        insta::assert_snapshot!(
            [
                said(&two(&[lower, lower, unclear, higher])),
                said(&two(&[lower, higher, lower])),
                said(&two(&[lower, lower])),
                said(&two(&[unclear, unclear])),
                said(&two(&[higher])),
                said(&two(&[&[0.0, 0.0], &[5.0, 5.0]])),
                said(&two(&[&[-5.0], &[0.0]])),
                said(&example::doks()),
            ]
            .join("\n"),
            @r"
            kv against round_robin: wins on TTFT p95 at concurrency 60-80 (-20 %), loses at 120 (+50 %), no clear difference at 100.
            kv against round_robin: wins on TTFT p95 at concurrency 60, 100 (-20 %), loses at 80 (+50 %).
            kv against round_robin: wins on TTFT p95 at every concurrency (-20 %).
            kv against round_robin: no clear difference in TTFT p95 at any concurrency.
            kv against round_robin: loses on TTFT p95 (+50 %).
            kv against round_robin: loses on TTFT p95 at concurrency 80 (+5.0 %), no clear difference at 60.
            kv against round_robin: TTFT p95 -5.0 to 0.0 % at every concurrency [one seed: not tested against chance].
            kv against round_robin: wins on TTFT p95 at concurrency 60-120 (-25 to -29 %), loses at 160-180 (+6.0 to +382 %), no clear difference at 140; wins on throughput at concurrency 60-100, 160-180 (+6.2 to +20 %), no clear difference at 120-140.
            "
        );
    }

    #[test]
    fn pairing_by_seed_finds_what_the_means_hide() {
        // The seeds scatter by 100, the policies differ by 1 in each.
        let mut builder = Builder::new("paired", 3);
        let base = [Some(100.0), Some(200.0), Some(300.0)];
        let with = [Some(99.0), Some(199.1), Some(299.0)];
        builder.load("round_robin", 60, &[("ttft_ms_p95", &base)]);
        builder.load("kv", 60, &[("ttft_ms_p95", &with)]);
        let summary = builder.build();
        let terms = Terms { worth: 0.1, ..Terms::default() };
        let view = View::new(&summary, None).unwrap();
        assert_eq!(answer(&view, &terms), ["kv against round_robin: wins on TTFT p95 (-0.5 %)."]);
        // Beyond chance, and nothing to change a router for.
        assert_eq!(
            said(&summary),
            "kv against round_robin: hardly differs in TTFT p95 (by less than 1 %)."
        );
    }

    /// Metrics of a point that waits so long, by the median.
    fn waiting(ttft: f64, share: f64) -> Vec<(&'static str, Vec<Option<f64>>)> {
        let seeds = |value: f64| vec![Some(value), Some(1.01 * value), Some(1.02 * value)];
        vec![
            ("ttft_ms_p95", seeds(ttft)),
            ("queue_ms_p50", seeds(200.0 * share)),
            ("engine_ttft_ms_p50", seeds(200.0)),
        ]
    }

    fn add(
        builder: &mut Builder,
        params: &[(&str, serde_json::Value)],
        metrics: &[(&'static str, Vec<Option<f64>>)],
    ) {
        let metrics: Vec<(&str, &[Option<f64>])> =
            metrics.iter().map(|(name, values)| (*name, values.as_slice())).collect();
        builder.point(params, &metrics);
    }

    #[test]
    fn two_overloaded_policies_are_no_ground_for_an_answer() {
        let mut builder = Builder::new("overload", 3);
        for (load, share) in [(60, 0.1), (120, 0.9)] {
            for (policy, ttft) in [("round_robin", 100.0), ("kv", 80.0)] {
                let params = [(POLICY, json!(policy)), ("workload.concurrency", json!(load))];
                add(&mut builder, &params, &waiting(ttft, share));
            }
        }
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        assert_eq!(
            said(&summary),
            "kv against round_robin: wins on TTFT p95 at concurrency 60 (-20 %), no answer at 120 \
             (both are overloaded)."
        );
        let first = &cautions(&view, &Terms::default())[0];
        assert!(first.starts_with("Overloaded: round_robin, kv at concurrency 120: "), "{first}");
    }

    #[test]
    fn a_variant_is_held_against_its_fair_partners() {
        let mut terms = Terms::default();
        let mut builder = Builder::new("memory", 3);
        let variants = [
            ("rr", "round_robin", None),
            ("rr, host", "round_robin", Some("host")),
            ("kv", "kv", None),
            ("kv, host", "kv", Some("host")),
            ("kv, disk", "kv", Some("disk")),
        ];
        for (i, (name, policy, tier)) in variants.into_iter().enumerate() {
            let mut set = BTreeMap::from([(POLICY.to_owned(), json!(policy))]);
            set.extend(tier.map(|tier| ("engine.tier".to_owned(), json!([tier]))));
            terms.variants.insert(name.to_owned(), set);
            let params = [(VARIANT, json!(name)), (POLICY, json!(policy))];
            add(&mut builder, &params, &waiting(100.0 - 10.0 * i as f64, 0.1));
        }
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        let names: Vec<String> =
            pairings(&view, &terms).iter().map(|(c, b)| pair_name(&view, &terms, *c, *b)).collect();
        assert_eq!(
            names,
            [
                "rr, host against rr",       // same router, other memory
                "kv against rr",             // same memory, other router
                "kv, host against rr, host", // the same with host memory
                "kv, host against kv",
                "kv, disk against kv", // no round robin has a disk
            ]
        );
    }

    #[test]
    fn what_happened_to_the_fleet_is_in_the_answer() {
        let mut builder = Builder::new("planner", 1);
        builder.point(
            &[(POLICY, json!("least_loaded"))],
            &[
                ("ttft_ms_p95", &[Some(80.0)]),
                ("workers_added", &[Some(20.0)]),
                ("workers_removed", &[Some(20.0)]),
                ("migrations", &[Some(0.0)]),
            ],
        );
        assert_eq!(
            said(&builder.build()),
            "least_loaded: 20 workers added by the planner, 20 removed."
        );
    }

    #[test]
    fn pools_are_named_with_what_they_served() {
        let mut builder = Builder::new("pools", 1);
        for (load, h100, h200) in [(100, 8.06, 9.94), (400, 19.7, 25.2)] {
            let served = |rate| vec![Some(rate)];
            let (h100, h200) = (served(h100), served(h200));
            let metrics: [(&str, &[Option<f64>]); 2] =
                [("pool_requests_per_s[h100]", &h100), ("pool_requests_per_s[h200]", &h200)];
            builder.load("kv", load, &metrics);
        }
        builder.load("drain", 100, &[("pool_requests_per_s[h100]", &[Some(0.0)])]);
        let lines = said(&builder.build());
        assert!(
            lines.contains("kv: h100 served 8.06 to 19.7 requests/s, h200 9.94 to 25.2."),
            "{lines}"
        );
        assert!(lines.contains("drain: h100 served 0 requests/s."), "{lines}");
    }

    #[test]
    fn targets_are_answered() {
        let mut builder = Builder::new("slo", 1);
        for (load, attained) in [(60, 0.99), (120, 0.96), (180, 0.7)] {
            let goodput = attained * f64::from(load) / 10.0;
            builder.load(
                "kv",
                load,
                &[("slo_attainment", &[Some(attained)]), ("goodput_per_s", &[Some(goodput)])],
            );
        }
        let summary = builder.build();
        let limit = crate::time::SimDuration::from_millis(600);
        let terms = Terms { targets: vec![("ttft".to_owned(), limit)], ..Terms::default() };
        assert_eq!(
            answer(&View::new(&summary, None).unwrap(), &terms),
            ["SLO (TTFT <= 600 ms, for 95 % of requests): met by kv at concurrency 60-120; most \
              goodput: kv at concurrency 180, 12.6 requests/s."]
        );
    }

    #[test]
    fn missing_values_are_said_to_be_unknown() {
        let mut builder = Builder::new("gaps", 2);
        for load in [60, 80, 100] {
            builder.load("round_robin", load, &[("ttft_ms_p95", &[Some(100.0), Some(101.0)])]);
        }
        builder.load("kv", 60, &[("ttft_ms_p95", &[Some(50.0), Some(51.0)])]);
        builder.load("kv", 80, &[("ttft_ms_p95", &[None, None])]);
        assert_eq!(
            said(&builder.build()),
            "kv against round_robin: wins on TTFT p95 at concurrency 60 (-50 %), \
             not known at 80-100."
        );
    }

    #[test]
    fn one_policy_has_nothing_to_be_compared_with() {
        let mut builder = Builder::new("alone", 1);
        builder.load("kv", 60, &[("ttft_ms_p95", &[Some(50.0)])]);
        assert_eq!(said(&builder.build()), "");
        assert_eq!(said(&Builder::new("empty", 1).build()), "");
    }

    proptest! {
        #[test]
        fn a_sentence_never_depends_on_the_order_of_points(
            (summary, order) in example::any_summary().prop_flat_map(|summary| {
                let indices: Vec<usize> = (0..summary.points.len()).collect();
                (Just(summary), Just(indices).prop_shuffle())
            })
        ) {
            // The baseline is the first policy unless round_robin is there, so name one so.
            let mut summary = summary;
            for point in &mut summary.points {
                if point.params["router.policy"] == "policy_0" {
                    point.params.insert("router.policy".to_owned(), "round_robin".into());
                }
            }
            let has_baseline =
                summary.points.iter().any(|p| p.params["router.policy"] == "round_robin");
            prop_assume!(has_baseline);
            let repeats = (0..summary.points.len()).any(|i| {
                summary.points[..i].iter().any(|p| p.params == summary.points[i].params)
            });
            prop_assume!(!repeats);
            let mut shuffled = summary.clone();
            shuffled.points = order.iter().map(|i| summary.points[*i].clone()).collect();
            let sorted = |summary: &results::Summary| {
                let mut lines = answer(&View::new(summary, None).unwrap(), &Terms::default());
                lines.sort();
                lines
            };
            prop_assert_eq!(sorted(&summary), sorted(&shuffled));
        }
    }
}
