//! What may be chosen: every combination of what an experiment sweeps, with its cost, and
//! how candidates lie to each other.
//!
//! A *ladder* is a row of candidates that differ in nothing but their number of workers,
//! from cheap to expensive. Ladders that differ in one number are neighbours.

use super::prices::{Cost, Counted};
use crate::experiment::{Experiment, Params};
use crate::report::view::{POLICY, VARIANT};
use crate::settings::{Invalid, number, plain, same};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The most candidates (assumed: each takes kilobytes, and far fewer can be read about).
pub(super) const MOST: usize = 20_000;

/// Values of a number from which on a search looks at some of them first (assumed).
const MANY_VALUES: usize = 5;

/// Sections that say what is asked, not what may be chosen.
const GIVEN: [&str; 3] = ["workload", "measure", "slo"];

/// One combination.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// The parameters of its point, for finding it again.
    pub(super) point: Params,
    /// The place of its run in the experiment.
    pub(super) run: usize,
    /// What it sets, keys that have no effect on it apart.
    pub(super) settings: Params,
    pub(super) cost: Cost,
    pub(super) ladder: usize,
}

/// Candidates that differ in their number of workers.
#[derive(Clone, Debug)]
pub(super) struct Ladder {
    /// Candidates, from cheap to expensive.
    pub(super) rungs: Vec<usize>,
    /// Places of its numbers on their axes; `None` where a number has no effect.
    places: Vec<Option<usize>>,
    /// What is no number, the policy among it: a search keeps the best of each kind.
    pub(super) kind: String,
    /// The policy or variant: of each other one an alternative is named.
    pub(super) group: String,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    pub(super) all: Vec<Candidate>,
    pub(super) ladders: Vec<Ladder>,
    /// Keys that candidates differ in.
    pub(super) keys: Vec<String>,
    /// How many values each number has.
    lengths: Vec<usize>,
    /// Combinations left out because they do what another one does.
    pub(super) twins: usize,
}

impl Candidates {
    /// Those of an experiment.
    ///
    /// # Errors
    /// If it sweeps what is no choice, has too many candidates, or a fleet whose cost is not
    /// known before it runs.
    pub(super) fn of(experiment: &Experiment, counted: &Counted) -> Result<Self, Invalid> {
        check(experiment)?;
        let idle = idle(experiment);
        let mut all = Vec::new();
        for (number, run) in experiment.runs.iter().enumerate() {
            if run.same_as.is_some() {
                continue;
            }
            let point = chosen(&experiment.points[run.points[0]]);
            let mut settings = point.clone();
            let without = idle.get(&number);
            settings.retain(|key, _| without.is_none_or(|idle| !idle.contains(key)));
            let cost = counted.cost(&run.settings)?;
            all.push(Candidate { point, run: number, settings, cost, ladder: 0 });
        }
        let keys = keys(&all);
        let mut candidates = Self {
            twins: experiment.runs.len() - all.len(),
            all,
            ladders: Vec::new(),
            keys,
            lengths: Vec::new(),
        };
        candidates.arrange();
        Ok(candidates)
    }

    /// Puts candidates on ladders.
    fn arrange(&mut self) {
        let counts: Vec<&String> = self.keys.iter().filter(|key| is_count(key)).collect();
        // Of two counts that move by themselves one makes ladders.
        let rung_key = counts.first().map(|key| (*key).clone());
        let others: Vec<&String> =
            self.keys.iter().filter(|key| Some(*key) != rung_key.as_ref()).collect();
        let axes: Vec<(&String, Vec<f64>)> =
            others.iter().filter_map(|key| Some((*key, numbers(&self.all, key)?))).collect();
        let mut known: BTreeMap<(String, Vec<Option<usize>>), usize> = BTreeMap::new();
        let mut ladders: Vec<Ladder> = Vec::new();
        for (at, candidate) in self.all.iter_mut().enumerate() {
            let value = |key: &str| candidate.settings.get(key);
            let place = |(key, values): &(&String, Vec<f64>)| {
                let (x, _) = value(key).and_then(number)?;
                values.iter().position(|known| *known == x)
            };
            let places: Vec<Option<usize>> = axes.iter().map(place).collect();
            let is_axis = |key: &&&String| axes.iter().any(|(axis, _)| axis == *key);
            let words = others.iter().filter(|key| !is_axis(key));
            let words = words.filter_map(|key| Some(format!("{key}={}", value(key)?)));
            let kind = words.collect::<Vec<_>>().join("\n");
            let group = value(POLICY).or_else(|| value(VARIANT)).map(plain).unwrap_or_default();
            let ladder = *known.entry((kind.clone(), places.clone())).or_insert(ladders.len());
            if ladder == ladders.len() {
                ladders.push(Ladder { rungs: Vec::new(), places, kind, group });
            }
            candidate.ladder = ladder;
            ladders[ladder].rungs.push(at);
        }
        for ladder in &mut ladders {
            let cost = |at: &usize| self.all[*at].cost.per_hour;
            ladder.rungs.sort_by(|a, b| cost(a).total_cmp(&cost(b)).then(a.cmp(b)));
        }
        self.lengths = axes.iter().map(|(_, values)| values.len()).collect();
        self.ladders = ladders;
    }

    /// Whether a ladder is looked at first: of numbers with many values the ends and some
    /// between them.
    pub(super) fn is_first(&self, ladder: usize) -> bool {
        let places = self.ladders[ladder].places.iter().zip(&self.lengths);
        places.into_iter().all(|(place, length)| {
            let stride = stride(*length);
            place.is_none_or(|place| place % stride == 0 || place + 1 == *length)
        })
    }

    /// The largest step between ladders that are looked at first.
    pub(super) fn first_step(&self) -> usize {
        self.lengths.iter().map(|length| stride(*length)).max().unwrap_or(1)
    }

    /// Ladders that differ in one number, by at most `step` values; the nearest that there
    /// is on each side.
    pub(super) fn near(&self, ladder: usize, step: usize) -> Vec<usize> {
        let own = &self.ladders[ladder];
        let mut near = Vec::new();
        for (axis, place) in own.places.iter().enumerate() {
            let Some(place) = *place else { continue };
            let sides = [place.checked_sub(step), Some(place + step)];
            for to in sides.into_iter().flatten() {
                let is_there =
                    |other: &Ladder| {
                        let mut places = other.places.iter().zip(&own.places).enumerate();
                        other.kind == own.kind
                            && places.all(|(at, (other, own))| {
                                if at == axis { *other == Some(to) } else { other == own }
                            })
                    };
                near.extend(self.ladders.iter().position(is_there));
            }
        }
        near
    }

    /// The most expensive rung of a ladder that costs at most so much.
    pub(super) fn within(&self, ladder: usize, cost: f64) -> Option<usize> {
        let rungs = &self.ladders[ladder].rungs;
        rungs.iter().rev().copied().find(|at| self.cost(*at) <= cost)
    }

    /// What an hour of a candidate costs.
    pub(super) fn cost(&self, candidate: usize) -> f64 {
        self.all[candidate].cost.per_hour
    }

    /// A candidate in words: the last parts of what it sets.
    pub(super) fn name(&self, candidate: usize) -> String {
        let settings = &self.all[candidate].settings;
        let mut parts = Vec::new();
        for key in self.keys.iter().filter(|key| !is_count(key)) {
            let Some(value) = settings.get(key) else { continue };
            let last = key.rsplit('.').next().unwrap_or(key);
            match key.as_str() {
                POLICY | VARIANT => parts.insert(0, plain(value)),
                _ => parts.push(format!("{last} {}", plain(value))),
            }
        }
        for key in self.keys.iter().filter(|key| is_count(key)) {
            let Some(value) = settings.get(key) else { continue };
            let path: Vec<&str> = key.split('.').collect();
            let pool = path.get(2).filter(|_| path.len() == 4);
            let pool = pool.map_or(String::new(), |pool| format!(" of {pool}"));
            parts.push(format!("{} workers{pool}", plain(value)));
        }
        if parts.is_empty() {
            parts.extend(settings.get(POLICY).map(plain));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
impl Candidates {
    /// So many values of one number, each with fleets of one worker and more.
    pub(super) fn grid(values: usize, fleets: u32) -> Self {
        let candidate = |value: usize, workers: u32| {
            let settings = Params::from([
                (POLICY.to_owned(), "kv".into()),
                ("router.overlap_weight".to_owned(), value.into()),
                ("cluster.workers".to_owned(), workers.into()),
            ]);
            let cost =
                Cost { per_hour: workers.into(), workers, gpus: BTreeMap::new(), watts: None };
            Candidate { point: settings.clone(), run: 0, settings, cost, ladder: 0 }
        };
        let all = (0..values).flat_map(|value| (1..=fleets).map(move |n| candidate(value, n)));
        Self::arranged(all.collect())
    }

    /// Models whose workers cost so much, each with fleets of one worker and more.
    pub(super) fn models(prices: &[f64], fleets: u32) -> Self {
        let candidate = |(model, price): (usize, &f64), workers: u32| {
            let settings = Params::from([
                (POLICY.to_owned(), "kv".into()),
                ("cluster.model".to_owned(), format!("model-{model}").into()),
                ("cluster.workers".to_owned(), workers.into()),
            ]);
            let per_hour = price * f64::from(workers);
            let cost = Cost { per_hour, workers, gpus: BTreeMap::new(), watts: None };
            Candidate { point: settings.clone(), run: 0, settings, cost, ladder: 0 }
        };
        let models = prices.iter().enumerate();
        let all = models.flat_map(|model| (1..=fleets).map(move |n| candidate(model, n)));
        Self::arranged(all.collect())
    }

    fn arranged(all: Vec<Candidate>) -> Self {
        let (keys, twins) = (keys(&all), 0);
        let mut grid = Self { all, ladders: Vec::new(), keys, lengths: Vec::new(), twins };
        grid.arrange();
        grid
    }
}

/// What is chosen of a point's parameters; the load may be among them, as the only value of
/// an axis.
pub(super) fn chosen(params: &Params) -> Params {
    let chosen = params.iter().filter(|(key, _)| !GIVEN.contains(&section(key)));
    chosen.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The first part of a dotted key.
fn section(key: &str) -> &str {
    key.split('.').next().unwrap_or_default()
}

/// Every how many values of so many are looked at first.
fn stride(length: usize) -> usize {
    match length {
        0..MANY_VALUES => 1,
        MANY_VALUES..=8 => 2,
        _ => 4,
    }
}

/// True of a key that says how many workers there are.
fn is_count(key: &str) -> bool {
    key == "cluster.workers" || key.starts_with("cluster.pool.") && key.ends_with(".workers")
}

/// Keys in which candidates differ, in order.
fn keys(all: &[Candidate]) -> Vec<String> {
    let names: BTreeSet<&String> = all.iter().flat_map(|c| c.settings.keys()).collect();
    let differs = |key: &&&String| {
        let first = all.first().and_then(|c| c.settings.get(**key));
        all.iter().any(|c| c.settings.get(**key) != first)
    };
    names.iter().filter(differs).map(|key| (*key).clone()).collect()
}

/// The values of a key, ascending, if all are numbers of one kind, and at least two.
fn numbers(all: &[Candidate], key: &str) -> Option<Vec<f64>> {
    let values = all.iter().filter_map(|candidate| candidate.settings.get(key));
    let values: Option<Vec<(f64, bool)>> = values.map(number).collect();
    let values = values.filter(|all| all.iter().all(|(_, is_time)| *is_time == all[0].1))?;
    let mut values: Vec<f64> = values.into_iter().map(|(x, _)| x).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    (values.len() > 1).then_some(values)
}

/// By run, the keys in which others do the same: its policy does not look at them.
fn idle(experiment: &Experiment) -> BTreeMap<usize, BTreeSet<String>> {
    let mut idle: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for run in &experiment.runs {
        let Some(first) = run.same_as else { continue };
        let point = |run: usize| &experiment.points[experiment.runs[run].points[0]];
        let own = &experiment.points[run.points[0]];
        for (key, value) in own {
            if !point(first).get(key).is_some_and(|other| same(other, value)) {
                idle.entry(first).or_default().insert(key.clone());
            }
        }
    }
    idle
}

/// Refuses what a recommendation cannot be about.
fn check(experiment: &Experiment) -> Result<(), Invalid> {
    let settings = experiment.settings();
    let sweep = settings["sweep"].as_array().map(Vec::as_slice).unwrap_or_default();
    for axis in sweep {
        let key = axis[0].as_str().unwrap_or_default();
        let is_one = axis[1].as_array().is_some_and(|values| values.len() == 1);
        if GIVEN.contains(&section(key)) && !is_one {
            let values = axis[1].to_string();
            let allowed = format!(
                "one value, as a recommendation is for one load and one service level: set {key} \
                 to it"
            );
            return Err(Invalid::new(format!("sweep.{key}"), values, allowed));
        }
        if key != VARIANT {
            continue;
        }
        for bundle in axis[1].as_array().into_iter().flatten().filter_map(Value::as_object) {
            let given = bundle.keys().find(|key| GIVEN.contains(&section(key)));
            if let Some(key) = given {
                let name = bundle.get("name").map(plain).unwrap_or_default();
                let allowed = "left out: variants to choose from must not change what is asked";
                return Err(Invalid::new(format!("variant {name}"), key, allowed));
            }
        }
    }
    let runs = experiment.runs.len();
    let allowed = format!("at most {MOST} combinations: sweep fewer values");
    Invalid::unless(runs <= MOST, "sweep", runs, &allowed)?;
    for run in &experiment.runs {
        if run.points.len() != 1 {
            let allowed = "a workload of one load: each stage is a load of its own";
            return Err(Invalid::new("workload.stages", run.points.len(), allowed));
        }
        let cluster = &run.settings.cluster;
        let allowed = "left out: what a fleet costs that changes its size is not known before it \
                       runs";
        if cluster.planner.is_some() {
            return Err(Invalid::new("cluster.planner", "a planner", allowed));
        }
        let spare = run.settings.pools.pools().iter().find(|pool| pool.spare > 0);
        let changes = !cluster.change.is_empty() || !run.settings.controls.is_empty();
        if spare.is_some() || changes && run.settings.plan().slots() > slots(run) {
            return Err(Invalid::new("cluster", "workers that start later", allowed));
        }
    }
    Ok(())
}

/// Numbers of the workers that are there at the start.
fn slots(run: &crate::experiment::RunSpec) -> u32 {
    run.settings.pools.pools().iter().map(|pool| pool.workers * pool.ranks()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::LoadOptions;
    use std::path::Path;

    fn candidates(overrides: &[&str]) -> Result<Candidates, String> {
        let options = LoadOptions::default().set_all(overrides.iter().copied());
        let experiment = Experiment::load(Path::new("doks-3xh200"), &options).expect("loads");
        let counted = Counted::of(None, &experiment).map_err(|error| error.to_string())?;
        Candidates::of(&experiment, &counted).map_err(|error| error.to_string())
    }

    #[test]
    fn workers_make_ladders_and_idle_settings_no_candidates() {
        let found = candidates(&[
            "workload.concurrency=60",
            "sweep.cluster.workers=2..5:1",
            "sweep.router.overlap_weight=0..4:0.5",
        ]);
        let found = found.expect("candidates");
        assert_eq!((found.all.len(), found.ladders.len(), found.twins), (40, 10, 32));
        let robin = found.all.iter().position(|c| c.settings[POLICY] == "round_robin");
        let robin = robin.expect("there");
        assert!(!found.all[robin].settings.contains_key("router.overlap_weight"));
        assert_eq!(found.name(robin), "round_robin, 2 workers");
        let costs = |ladder: &Ladder| -> Vec<f64> {
            ladder.rungs.iter().map(|at| found.cost(*at)).collect()
        };
        assert!(found.ladders.iter().all(|ladder| costs(ladder) == [2.0, 3.0, 4.0, 5.0]));
        // Of nine weights those at 0, 2 and 4 first; neighbours are one value away.
        let first = (0..10).filter(|ladder| found.is_first(*ladder)).count();
        assert_eq!((first, found.first_step()), (4, 4));
        let kv = (0..10).find(|ladder| found.ladders[*ladder].places == [Some(4)]).expect("2.0");
        assert_eq!(found.near(kv, 1).len(), 2);
        assert_eq!(found.within(kv, 3.5).map(|at| found.cost(at)), Some(3.0));
        assert_eq!(found.within(kv, 1.0), None);
    }

    #[test]
    fn what_is_no_choice_is_refused() {
        let loads = candidates(&[]).expect_err("loads are swept");
        assert!(loads.contains("sweep.workload.concurrency"), "{loads}");
        let variant = candidates(&[
            "workload.concurrency=60",
            "sweep.variant=[{ name = \"a\", workload.starters = 7 }]",
        ]);
        assert!(variant.expect_err("another load").contains("variant a"));
        let planner = candidates(&[
            "workload.concurrency=60",
            "cluster.change=[{ at = \"100s\", what = \"start\", worker = 3 }]",
        ]);
        let message = planner.expect_err("it grows");
        assert!(message.contains("changes its size"), "{message}");
    }
}
