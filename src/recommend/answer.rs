//! A recommendation: the winner, what the others would cost, and what it rests on.

use super::asked::Asked;
use super::bench::Simulated;
use super::candidates::Candidates;
use super::error::RecommendError;
use super::prices::{Cost, Counted};
use super::race::{self, Bench, Found};
use super::reading::{Reader, Reading, Verdict};
use super::trust::{self, ModelError};
use crate::experiment::{Experiment, ExperimentError, Params, RunOptions};
use crate::frontier::{MetricTarget, load_key};
use crate::report::judge::state::in_table;
use crate::report::judge::terms::variants;
use crate::report::view::VARIANT;
use crate::settings::{number, same, twelve_digits};
use crate::stats::Estimate;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// Alternatives of the winner's own group that are looked at (assumed: more are not read).
const MOST_ALIKE: usize = 3;

/// Fleets of the winner's setting that are looked at for the frontier (assumed).
const MOST_RUNGS: usize = 8;

/// Seeds that every row of the tables has, if there are so many: with two, Student's t makes
/// an interval of 12.7 standard errors, with three of 4.3.
const SHOWN_SEEDS: usize = 3;

/// What is to be chosen, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// Name of the experiment.
    pub experiment: String,
    /// Version of `sim`.
    pub version: String,
    /// SHA-256 over the experiment's resolved settings, hexadecimal.
    pub config_hash: String,
    /// What was asked.
    pub asked: Asked,
    /// All seeds there are; a candidate has the first of them.
    pub seeds: Vec<u64>,
    /// How sure intervals are.
    pub confidence: f64,
    /// The targets.
    pub targets: Vec<MetricTarget>,
    /// Key and value of the load, where it has one number.
    pub load: Option<(String, f64)>,
    /// What costs are in, an hour.
    pub unit: String,
    /// Where prices come from, if the file says so.
    pub prices_from: Option<String>,
    /// Combinations to choose from, those that do what another one does apart.
    pub candidates: usize,
    /// How much was simulated.
    pub simulations: Simulations,
    /// The cheapest that meets the targets with the confidence asked for.
    pub winner: Option<Choice>,
    /// What to set for it: dotted keys with their values.
    pub change: Params,
    /// The cheapest that was found to meet the targets if the model were exact.
    pub by_seeds: Option<Choice>,
    /// Without a winner the one that is nearest to the targets.
    pub nearest: Option<Choice>,
    /// What a little more money buys: the best of each cost, if nothing cheaper is as good.
    pub frontier: Vec<Choice>,
    /// What others would cost.
    pub alternatives: Vec<Alternative>,
    /// The winner under a larger load.
    pub more_load: Option<MoreLoad>,
    /// Why not the neighbours, if that was asked for.
    pub neighbours: Vec<Neighbour>,
    /// The fleet as the experiment has it, if that was asked for, is one of the candidates,
    /// and another one is recommended.
    pub now: Option<Neighbour>,
    /// What the answer rests on.
    pub rests_on: Vec<String>,
    /// What was not tried, and why.
    pub not_tried: Vec<String>,
}

/// How much was simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Simulations {
    /// To find the winner.
    pub search: usize,
    /// For everything else that is said.
    pub rest: usize,
    /// That a full grid takes.
    pub grid: usize,
}

/// A candidate with what it costs and does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// In words.
    pub name: String,
    /// What it sets.
    pub settings: Params,
    /// What it takes.
    pub cost: Cost,
    /// Its targets' metrics.
    pub readings: Vec<Reading>,
    /// Whether it meets them all.
    pub verdict: Verdict,
    /// Whether it keeps up.
    pub state: String,
    /// Seeds that it was simulated with.
    pub seeds: usize,
    /// Output tokens a second.
    pub output_tokens_per_s: Option<f64>,
    /// Cost of a million output tokens.
    pub per_million_tokens: Option<f64>,
    /// Output tokens per watt-hour; `None` where the power of a GPU is not given.
    pub tokens_per_watt_hour: Option<f64>,
}

/// What another setting would cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// Its cheapest fleet that meets the targets, or else its largest.
    pub choice: Choice,
    /// True if no fleet that was swept meets the targets with this setting.
    pub never: bool,
}

/// The winner under a larger load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MoreLoad {
    /// The load.
    pub load: f64,
    /// The winner at it.
    pub winner: Choice,
    /// The cheapest fleet of the winner's setting that meets the targets then, if the
    /// winner's own does not.
    pub instead: Option<Choice>,
}

/// The winner against another candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// The other.
    pub choice: Choice,
    /// The metric of the worst target, the other's less the winner's, paired by seed, with
    /// the interval over seeds.
    pub difference: Option<(f64, Option<[f64; 2]>)>,
    /// Its metric.
    pub metric: String,
    /// Cost of an hour, the other's less the winner's.
    pub extra_cost: f64,
}

/// What a recommendation is made of.
pub(super) struct Answering<'a> {
    pub(super) asked: &'a Asked,
    pub(super) counted: &'a Counted,
    pub(super) targets: &'a [MetricTarget],
}

impl Answering<'_> {
    /// Everything that is said of what was found.
    ///
    /// # Errors
    /// If the larger load cannot be loaded, or something cannot be simulated.
    pub(super) fn recommendation<'a>(
        &self,
        found: Found,
        mut bench: Simulated<'a>,
        reader: impl Fn() -> Reader<'a>,
        again: impl FnMut(String) -> Result<Experiment, ExperimentError>,
        options: RunOptions<'_>,
    ) -> Result<Recommendation, RecommendError> {
        let (experiment, candidates) = (bench.experiment, bench.candidates);
        let search = bench.simulations;
        let winner = found.winner;
        let best = winner.unwrap_or(found.nearest);
        let alternatives = self.alternatives(&mut bench, best)?;
        self.look_below(&mut bench, best)?;
        let neighbours = match self.asked.explain {
            true => {
                let near = near(&bench, best);
                self.against(&mut bench, best, near)?
            }
            false => Vec::new(),
        };
        let now = self.asked.now.then(|| own(experiment, candidates)).flatten();
        let now = now.filter(|own| *own != best);
        let now = self.against(&mut bench, best, now.into_iter().collect())?.pop();
        let load = load_of(experiment);
        let (more_load, more) = match winner.zip(load.as_ref()) {
            Some((winner, load)) if self.asked.more_load > 0.0 => {
                self.more_load(winner, candidates, load, again, reader(), options)?
            }
            _ => (None, 0),
        };
        let frontier = frontier(&mut bench)?;
        let choice = |at: usize| choice(&bench, at);
        Ok(Recommendation {
            experiment: experiment.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: experiment.config_hash.clone(),
            asked: self.asked.clone(),
            seeds: experiment.seeds.clone(),
            confidence: self.asked.confidence,
            targets: self.targets.to_vec(),
            load: load.clone(),
            unit: self.counted.unit().to_owned(),
            prices_from: match self.counted {
                Counted::Prices(prices) => prices.source.clone(),
                _ => None,
            },
            candidates: candidates.all.len(),
            simulations: Simulations {
                search,
                rest: bench.simulations - search + more,
                grid: candidates.all.len() * experiment.seeds.len(),
            },
            winner: winner.map(choice),
            change: winner.map(|at| change(experiment, candidates, at)).unwrap_or_default(),
            by_seeds: by_seeds(&bench, winner),
            nearest: winner.is_none().then(|| choice(found.nearest)),
            frontier: frontier.into_iter().map(choice).collect(),
            alternatives,
            more_load,
            neighbours,
            now,
            rests_on: self.rests_on(&bench, best),
            not_tried: self.not_tried(&bench, best, &found.dropped, load.is_some()),
        })
    }

    /// What the best setting of each other group would cost, and the next ones of its own.
    fn alternatives(
        &self,
        bench: &mut Simulated<'_>,
        best: usize,
    ) -> Result<Vec<Alternative>, RecommendError> {
        let candidates = bench.candidates;
        let own = candidates.all[best].ladder;
        let group = |ladder: usize| candidates.ladders[ladder].group.as_str();
        let mut seen: Vec<usize> = bench.seen().map(|(at, _)| at).collect();
        seen.sort_by(|a, b| {
            let beyond = |at: usize| bench.standing(at).map_or(f64::INFINITY, |s| s.beyond);
            // What was looked at nearest to the winner's cost says most.
            let far = |at: usize| (candidates.cost(at) - candidates.cost(best)).abs();
            let by_cost = far(*a).total_cmp(&far(*b));
            by_cost.then(beyond(*a).total_cmp(&beyond(*b))).then(a.cmp(b))
        });
        let (mut ladders, mut groups, mut alike) = (vec![own], BTreeSet::new(), 0);
        for at in seen {
            let ladder = candidates.all[at].ladder;
            if ladders.contains(&ladder) {
                continue;
            }
            if group(ladder) == group(own) {
                alike += 1;
                if alike <= MOST_ALIKE {
                    ladders.push(ladder);
                }
            } else if groups.insert(group(ladder)) {
                ladders.push(ladder);
            }
        }
        let mut alternatives = Vec::new();
        for ladder in ladders.into_iter().skip(1) {
            let found = race::cheapest(candidates, bench, ladder, SHOWN_SEEDS)?;
            let rungs = &candidates.ladders[ladder].rungs;
            let at = found.unwrap_or(rungs[rungs.len() - 1]);
            bench.measure(&[(at, SHOWN_SEEDS)])?;
            alternatives.push((at, found.is_none()));
        }
        alternatives.sort_by(|a, b| {
            let cost = |at: usize| candidates.cost(at);
            a.1.cmp(&b.1).then(cost(a.0).total_cmp(&cost(b.0))).then(a.0.cmp(&b.0))
        });
        let named = |(at, never)| Alternative { choice: choice(bench, at), never };
        Ok(alternatives.into_iter().map(named).collect())
    }

    /// Looks at the smaller fleets of the winner's setting for as long as they would do if
    /// the model were exact, and at some of the others for the frontier.
    fn look_below(&self, bench: &mut Simulated<'_>, best: usize) -> Result<(), RecommendError> {
        let all = bench.seeds();
        let rungs = &bench.candidates.ladders[bench.candidates.all[best].ladder].rungs;
        let place = rungs.iter().position(|at| *at == best).expect("on its own ladder");
        let from = (place + 1).saturating_sub(MOST_RUNGS / 2);
        for at in rungs[from..place].iter().rev() {
            bench.measure(&[(*at, all)])?;
            let readings = bench.readings(*at);
            if readings.is_empty() || !readings.iter().all(Reading::meets_by_seeds) {
                break;
            }
        }
        let to = (from + MOST_RUNGS).min(rungs.len());
        let wanted: Vec<(usize, usize)> =
            rungs[from..to].iter().map(|at| (*at, SHOWN_SEEDS)).collect();
        Ok(bench.measure(&wanted)?)
    }

    /// The winner against others, by all seeds.
    fn against(
        &self,
        bench: &mut Simulated<'_>,
        best: usize,
        others: Vec<usize>,
    ) -> Result<Vec<Neighbour>, RecommendError> {
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let all = bench.seeds();
        let wanted: Vec<(usize, usize)> =
            others.iter().chain([&best]).map(|at| (*at, all)).collect();
        bench.measure(&wanted)?;
        let cost = bench.candidates.cost(best);
        let metric = worst(bench, best);
        let per_seed = |at: usize| -> Vec<Option<f64>> {
            let of = bench.of(at).and_then(|seen| seen.point.metrics.get(&metric));
            of.map(|metric| metric.per_seed.clone()).unwrap_or_default()
        };
        let own = per_seed(best);
        let neighbour = |at: usize| {
            let other = per_seed(at);
            let pairs = other.iter().zip(&own).filter_map(|(a, b)| Some((*a)? - (*b)?));
            let pairs: Vec<f64> = pairs.collect();
            let difference =
                Estimate::of(&pairs).map(|e| (e.mean, e.interval(self.asked.confidence)));
            let choice = choice(bench, at);
            let extra_cost = choice.cost.per_hour - cost;
            Neighbour { choice, difference, metric: metric.clone(), extra_cost }
        };
        Ok(others.into_iter().map(neighbour).collect())
    }

    /// The winner under a larger load, and how many simulations that took.
    fn more_load<'a>(
        &self,
        winner: usize,
        candidates: &'a Candidates,
        (key, load): &(String, f64),
        mut again: impl FnMut(String) -> Result<Experiment, ExperimentError>,
        reader: Reader<'a>,
        options: RunOptions<'_>,
    ) -> Result<(Option<MoreLoad>, usize), RecommendError> {
        let larger = load * (1.0 + self.asked.more_load);
        let rounded = twelve_digits(larger);
        // Clients come whole.
        let load = if key == CONCURRENCY { rounded.ceil() } else { rounded };
        let experiment = again(format!("{key}={load}"))?;
        let mut bench = Simulated::new(&experiment, candidates, reader, options);
        let all = bench.seeds();
        bench.measure(&[(winner, all)])?;
        let at_winner = choice(&bench, winner);
        let ladder = candidates.all[winner].ladder;
        let instead = match at_winner.verdict {
            Verdict::Meets => None,
            _ => race::cheapest(candidates, &mut bench, ladder, all)?,
        };
        if let Some(instead) = instead {
            bench.measure(&[(instead, all)])?;
        }
        let instead = instead.map(|at| choice(&bench, at));
        let more = MoreLoad { load, winner: at_winner, instead };
        Ok((Some(more), bench.simulations))
    }

    /// What is assumed, and how far the model may be off.
    fn rests_on(&self, bench: &Simulated<'_>, best: usize) -> Vec<String> {
        let settings = &bench.experiment.runs[bench.candidates.all[best].run].settings;
        let mut lines = Vec::new();
        let worth = trust::worth(settings);
        lines.push(format!("the step times of its workers are {worth}"));
        for reading in bench.readings(best) {
            let label = crate::metrics::Metric::of(&reading.metric).label;
            lines.push(match &reading.model_error {
                Some(ModelError { mean_percent, of, from }) => {
                    let unit = if reading.metric == "hit_ratio" { "points" } else { "%" };
                    format!(
                        "{label}: the model's mean error is {mean_percent:.1} {unit} ({of} numbers: \
                         {from}); assumed: normal, without bias"
                    )
                }
                None => format!(
                    "{label}: no error of the model is known; its interval is chance over seeds \
                     alone"
                ),
            });
        }
        lines.push(format!(
            "the {} seeds that chose it are those that it was tested with: among equally good \
             candidates the search picks the one that these seeds favour, so with other seeds it \
             may come closer to its limits",
            bench.seeds()
        ));
        lines.extend(self.counted.uncounted(bench.experiment));
        lines
    }

    /// What was left out, and why.
    fn not_tried(
        &self,
        bench: &Simulated<'_>,
        best: usize,
        dropped: &[usize],
        has_load: bool,
    ) -> Vec<String> {
        let mut lines = not_simulated(bench, best, dropped);
        if self.asked.more_load > 0.0 && !has_load {
            lines.push("a larger load: the load of this workload is not one number".to_owned());
        }
        lines
    }
}

/// The key of a closed loop's load.
const CONCURRENCY: &str = "workload.concurrency";

/// Those that differ from a candidate in one thing: the next fleets of its setting, and the
/// settings beside it at its cost.
fn near(bench: &Simulated<'_>, best: usize) -> Vec<usize> {
    let candidates = bench.candidates;
    let ladder = candidates.all[best].ladder;
    let rungs = &candidates.ladders[ladder].rungs;
    let place = rungs.iter().position(|at| *at == best).expect("on its own ladder");
    let sides = [place.checked_sub(1), Some(place + 1)];
    let mut near: Vec<usize> =
        sides.into_iter().flatten().filter_map(|place| rungs.get(place).copied()).collect();
    let ladders = candidates.near(ladder, 1);
    let cost = candidates.cost(best);
    near.extend(ladders.into_iter().filter_map(|ladder| candidates.within(ladder, cost)));
    near
}

/// The candidate that is what the experiment has beside its sweep.
fn own(experiment: &Experiment, candidates: &Candidates) -> Option<usize> {
    let settings = experiment.settings();
    let given = |key: &str| {
        key.split('.').try_fold(&settings["settings"], |at, part| match at {
            Value::Array(pools) => pools.iter().find(|pool| pool["name"] == part),
            at => at.get(part),
        })
    };
    candidates.all.iter().position(|candidate| {
        let mut settings = candidate.settings.iter();
        settings.all(|(key, value)| given(key).is_some_and(|given| same(given, value)))
    })
}

/// Key and value of the load that all candidates have, if it is one number.
fn load_of(experiment: &Experiment) -> Option<(String, f64)> {
    let workload = &experiment.runs[0].settings.workload;
    let key = load_key(workload)?;
    if let Some(clients) = workload.concurrency() {
        return Some((key.to_owned(), f64::from(clients)));
    }
    let settings = experiment.settings();
    let pointer = format!("/settings/{}", key.replace('.', "/"));
    match settings.pointer(&pointer) {
        Some(value) => Some((key.to_owned(), number(value).filter(|(_, time)| !time)?.0)),
        // A trace at its own times.
        None if key == "workload.speedup" => Some((key.to_owned(), 1.0)),
        None => None,
    }
}

/// A candidate that was simulated.
fn choice(bench: &Simulated<'_>, at: usize) -> Choice {
    let candidate = &bench.candidates.all[at];
    let seen = bench.of(at).expect("it was simulated");
    let readings = bench.readings(at);
    let meets = bench.standing(at).is_some_and(|s| s.beyond.is_finite());
    let verdict = match readings.iter().map(Reading::verdict).max_by_key(|v| match v {
        Verdict::Meets => 0,
        Verdict::Unsure => 1,
        Verdict::Misses => 2,
    }) {
        Some(verdict) if meets => verdict,
        _ => Verdict::Misses,
    };
    let tokens = seen.point.metrics.get("output_tokens_per_s").and_then(|metric| metric.mean);
    let an_hour = tokens.filter(|tokens| *tokens > 0.0).map(|tokens| tokens * 3_600.0);
    Choice {
        name: bench.candidates.name(at),
        settings: candidate.settings.clone(),
        cost: candidate.cost.clone(),
        readings,
        verdict,
        state: in_table(&seen.point),
        seeds: seen.seeds,
        output_tokens_per_s: tokens,
        per_million_tokens: an_hour.map(|an_hour| candidate.cost.per_hour / an_hour * 1e6),
        tokens_per_watt_hour: an_hour
            .zip(candidate.cost.watts.filter(|watts| *watts > 0.0))
            .map(|(an_hour, watts)| an_hour / watts),
    }
}

/// The metric of the target that is nearest to its limit.
fn worst(bench: &Simulated<'_>, at: usize) -> String {
    let settings = &bench.experiment.runs[bench.candidates.all[at].run].settings;
    let seen = bench.of(at).expect("it was simulated");
    let all = bench.reader.beyond(settings, &seen.point, Some(&seen.curves)).unwrap_or_default();
    let targets = bench.reader.targets.iter().zip(all);
    let worst =
        targets.max_by(|a, b| (a.1.mean + a.1.model[0]).total_cmp(&(b.1.mean + b.1.model[0])));
    let first = &bench.reader.targets[0].metric;
    worst.map_or_else(|| first.clone(), |(target, _)| target.metric.clone())
}

/// The cheapest with enough seeds that would do if the model were exact; of equals the
/// one that is farthest from the limits.
fn by_seeds(bench: &Simulated<'_>, winner: Option<usize>) -> Option<Choice> {
    let enough = bench.seeds().min(SHOWN_SEEDS);
    let meets = |at: usize| {
        let readings = bench.readings(at);
        let is_an_answer = bench.standing(at).is_some_and(|s| s.beyond.is_finite());
        is_an_answer && !readings.is_empty() && readings.iter().all(Reading::meets_by_seeds)
    };
    let all = bench.seen().filter(|(at, seen)| seen.seeds >= enough && meets(*at));
    let beyond = |at: usize| bench.standing(at).map_or(f64::INFINITY, |s| s.beyond);
    let cost = |at: usize| bench.candidates.cost(at);
    let cheapest = all
        .map(|(at, _)| at)
        .min_by(|a, b| cost(*a).total_cmp(&cost(*b)).then(beyond(*a).total_cmp(&beyond(*b))))?;
    let is_cheaper = winner.is_none_or(|winner| cost(cheapest) < cost(winner));
    is_cheaper.then(|| choice(bench, cheapest))
}

/// The best of each cost, unless something cheaper is as good, with enough seeds to be shown.
fn frontier(bench: &mut Simulated<'_>) -> Result<Vec<usize>, RecommendError> {
    loop {
        let front = best_of_each_cost(bench);
        let before = bench.simulations;
        let wanted: Vec<(usize, usize)> = front.iter().map(|at| (*at, SHOWN_SEEDS)).collect();
        bench.measure(&wanted)?;
        // With more seeds others may be the best.
        if bench.simulations == before {
            return Ok(front);
        }
    }
}

fn best_of_each_cost(bench: &Simulated<'_>) -> Vec<usize> {
    let beyond = |at: usize| bench.standing(at).map_or(f64::INFINITY, |s| s.beyond);
    let mut all: Vec<usize> =
        bench.seen().map(|(at, _)| at).filter(|at| beyond(*at).is_finite()).collect();
    all.sort_by(|a, b| {
        let by_cost = bench.candidates.cost(*a).total_cmp(&bench.candidates.cost(*b));
        by_cost.then(beyond(*a).total_cmp(&beyond(*b))).then(a.cmp(b))
    });
    let mut best = f64::INFINITY;
    all.retain(|at| {
        let is_better = beyond(*at) < best;
        best = best.min(beyond(*at));
        is_better
    });
    all
}

/// What to set: a variant is what it stands for.
fn change(experiment: &Experiment, candidates: &Candidates, at: usize) -> Params {
    let mut change = candidates.all[at].settings.clone();
    let variant = change.remove(VARIANT);
    let set = variant.and_then(|name| variants(&experiment.settings()).remove(name.as_str()?));
    change.extend(set.unwrap_or_default());
    change
}

/// What a search could have changed besides, by the keys that say it.
const CHOICES: [(&str, &str); 6] = [
    ("router.policy", "other policies"),
    ("cluster.model", "other GPUs, tensor and expert parallelism"),
    ("cluster.prefill.workers", "prefill and decode apart"),
    ("engine.max_num_seqs", "other limits of the batch"),
    ("engine.max_num_batched_tokens", "other limits of a step"),
    ("engine.tiers", "memory tiers below the GPU's"),
];

/// What was not simulated.
fn not_simulated(bench: &Simulated<'_>, best: usize, dropped: &[usize]) -> Vec<String> {
    let candidates = bench.candidates;
    let mut lines = Vec::new();
    let of_ladder = |ladder: usize| {
        let rungs = &candidates.ladders[ladder].rungs;
        rungs.iter().filter(|at| bench.of(**at).is_some()).count()
    };
    let (mut rungs, mut ladders, mut between, mut behind) = (0, 0, 0, 0);
    for (ladder, row) in candidates.ladders.iter().enumerate() {
        match of_ladder(ladder) {
            0 => {
                ladders += 1;
                between += row.rungs.len();
            }
            seen if dropped.contains(&ladder) => behind += row.rungs.len() - seen,
            seen => rungs += row.rungs.len() - seen,
        }
    }
    if behind > 0 {
        lines.push(format!(
            "{behind} candidates of {} settings that dropped out: at the cost where the targets \
             hold they were in the worse half after one seed, and others of their kind were better",
            dropped.len()
        ));
    }
    if rungs > 0 {
        lines.push(format!(
            "{rungs} candidates with other numbers of workers, settled by those beside them: more \
             workers of a kind are assumed never to hurt"
        ));
    }
    if ladders > 0 {
        lines.push(format!(
            "{between} candidates of {ladders} settings between those that were looked at: around \
             the best of each kind every value was, elsewhere some"
        ));
    }
    if candidates.twins > 0 {
        lines.push(format!(
            "{} combinations that differ from others only in what their policy does not look at",
            candidates.twins
        ));
    }
    let swept = |key: &str| {
        let is_it = |known: &String| known == key || known.starts_with(&format!("{key}."));
        candidates.keys.iter().any(is_it)
    };
    if !swept(VARIANT) {
        for (key, what) in CHOICES.iter().filter(|(key, _)| !swept(key)) {
            lines.push(format!("{what}: {key} is not swept"));
        }
    }
    let rungs = &candidates.ladders[candidates.all[best].ladder].rungs;
    if rungs.len() > 1 && rungs[0] == best {
        lines.push("smaller fleets: the best has the fewest workers that were swept".to_owned());
    }
    lines
}
