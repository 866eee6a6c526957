//! Up to which load: where one policy stops beating another, the largest load at
//! which a policy or setting meets its targets, and which of them carries the
//! most. Of what makes things easier, such as workers, the smallest value from
//! which something holds.
//!
//! Loads are searched by bisection on a grid. Every load is simulated once, with
//! all seeds, from cold caches, for those who are asked about; all of them meet
//! the same conversations seed by seed. The interval of an answer is where the 95 % interval (Student's t over
//! seeds) of the difference, or of the metric, includes the border: it begins at
//! the last load up to which all loads that were looked at are good beyond doubt,
//! and ends at the last that may be good.

mod asked;
mod question;
mod search;
mod text;

pub use crate::report::judge::state::State;
pub use asked::{Asked, SearchError, load_key};
pub use question::{MetricTarget, Question};
pub(crate) use question::{Scale, hides_unserved, sign};

use crate::experiment::results::Point;
use crate::report::judge::state::compare;
use crate::settings::{Invalid, twelve_digits};
use question::margin;
use search::{Edge, Found};
use serde::Serialize;
use std::collections::BTreeMap;

/// The most loads of a grid (assumed: far finer than any answer needs).
const MOST_LOADS: usize = 1_000_000;

/// The loads that may be asked for: `from`, `from + step`, ... up to `to`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadRange {
    /// Dotted key, as `workload.concurrency`.
    pub key: String,
    /// The smallest.
    pub from: f64,
    /// The largest.
    pub to: f64,
    /// How far neighbours are apart: answers are that exact.
    pub step: f64,
}

impl LoadRange {
    /// Checks and makes a grid.
    ///
    /// # Errors
    /// If it does not go up, or has far too many loads.
    pub fn new(key: &str, from: f64, to: f64, step: f64) -> Result<Self, Invalid> {
        let is_grid = from.is_finite() && from > 0.0 && to >= from && step > 0.0;
        let is_small = (to - from) / step < MOST_LOADS as f64;
        Invalid::unless(
            is_grid && is_small,
            "loads",
            format!("{from}..{to}:{step}"),
            &format!(
                "FROM..TO:STEP with FROM and STEP above 0, TO not below FROM, and at most {MOST_LOADS} steps"
            ),
        )?;
        Ok(Self { key: key.to_owned(), from, to, step })
    }

    /// True of what makes things easier the more there is of it: a target is then met
    /// from some value on, not up to it.
    fn eases(&self) -> bool {
        matches!(self.name(), "workers" | "num_blocks")
    }

    /// The last part of the key.
    pub fn name(&self) -> &str {
        self.key.rsplit('.').next().unwrap_or(&self.key)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked by `new`")]
    fn last(&self) -> usize {
        ((self.to - self.from) / self.step + 1e-9).floor() as usize
    }

    fn at(&self, place: usize) -> f64 {
        twelve_digits(self.from + place as f64 * self.step)
    }
}

/// The largest load at which something holds, or the smallest value from which it does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Not even at the smallest load.
    Nowhere,
    /// Up to this load.
    UpTo(f64),
    /// From this value on.
    From(f64),
    /// At every load.
    Everywhere,
}

/// The direction in which a question is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It holds up to some load.
    UpTo,
    /// It holds from some value on.
    From,
}

/// What was found out about a question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// Which way it was searched.
    pub direction: Direction,
    /// Up to where or from where, by the means over seeds.
    pub limit: Limit,
    /// Between which limits it lies with 95 % confidence; `None` with one seed.
    pub interval: Option<[Limit; 2]>,
    /// Loads below the limit at which it does not hold all the same.
    pub exceptions: Vec<f64>,
    /// (targets) The metric that is missed first beyond the limit.
    pub fails: Option<String>,
    /// (one against another) The load from which on the two cannot be compared at any
    /// load that was looked at: neither keeps up, or requests are not served.
    pub not_compared_from: Option<f64>,
}

/// What a policy or setting did at a load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluated {
    /// The load.
    pub load: f64,
    /// The policy or setting, as questions call it.
    pub policy: String,
    /// Whether it kept up.
    pub state: State,
    /// Its metrics.
    pub point: Point,
}

/// All answers, and all that was simulated for them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frontier {
    /// Name of the experiment.
    pub experiment: String,
    /// Version of `sim`.
    pub version: String,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The loads that could be asked for.
    pub loads: LoadRange,
    /// In order of the questions.
    pub answers: Vec<Answer>,
    /// By load, policies in the order of the points.
    pub points: Vec<Evaluated>,
}

/// What was simulated: by place on the grid, then by name.
type Known = BTreeMap<usize, BTreeMap<String, Point>>;

/// Answers the questions. `names` are those that questions may speak of, in order.
/// `simulate` gives the points of some of them at a load, in their order, each with
/// the metrics that the questions ask about.
///
/// # Errors
/// Whatever `simulate` fails with.
pub fn frontier<E>(
    (experiment, seeds): (&str, &[u64]),
    loads: &LoadRange,
    names: &[String],
    questions: &[Question],
    mut simulate: impl FnMut(f64, &[&str]) -> Result<Vec<Point>, E>,
) -> Result<Frontier, E> {
    let mut known = Known::new();
    let mut simulations = 0;
    // Until every answer has seen all that was simulated for the others.
    let answers = loop {
        let before = simulations;
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            let mut margin = |known: &mut Known, place: usize| -> Result<_, E> {
                let here = known.entry(place).or_default();
                let sides = question.sides();
                let missing: Vec<&str> =
                    sides.iter().copied().filter(|name| !here.contains_key(*name)).collect();
                if !missing.is_empty() {
                    simulations += 1;
                    let points = simulate(loads.at(place), &missing)?;
                    here.extend(missing.into_iter().map(str::to_owned).zip(points));
                }
                Ok(margin(question, here))
            };
            let last = loads.last();
            let ends = [margin(&mut known, 0)?.mean <= 0.0, margin(&mut known, last)?.mean <= 0.0];
            let direction = match ends {
                [false, true] => Direction::From,
                [true, false] => Direction::UpTo,
                _ if loads.eases() && question.has_targets() => Direction::From,
                _ => Direction::UpTo,
            };
            let turned = |place: usize| match direction {
                Direction::UpTo => place,
                Direction::From => last - place,
            };
            let has_all = |points: &BTreeMap<String, Point>| {
                question.sides().iter().all(|name| points.contains_key(*name))
            };
            let seen = known.iter().filter(|(_, points)| has_all(points));
            let seen: Vec<usize> = seen.map(|(place, _)| turned(*place)).collect();
            let found = search::search(last, seen, |place| margin(&mut known, turned(place)))?;
            answers.push(answer(question, loads, direction, &found, &known, seeds.len()));
        }
        if simulations == before {
            break answers;
        }
    };
    let points = known.into_iter().flat_map(|(place, mut points)| {
        let found = names.iter().filter_map(move |name| points.remove_entry(name));
        found.map(move |(policy, point)| Evaluated {
            load: loads.at(place),
            policy,
            state: State::of(&point),
            point,
        })
    });
    Ok(Frontier {
        experiment: experiment.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seeds: seeds.to_vec(),
        loads: loads.clone(),
        answers,
        points: points.collect(),
    })
}

fn answer(
    question: &Question,
    loads: &LoadRange,
    direction: Direction,
    found: &Found,
    known: &Known,
    seeds: usize,
) -> Answer {
    let place = |place: usize| match direction {
        Direction::UpTo => place,
        Direction::From => loads.last() - place,
    };
    let limit = |edge: Edge| match edge {
        Edge::Before => Limit::Nowhere,
        Edge::After(at) if direction == Direction::From => Limit::From(loads.at(place(at))),
        Edge::After(at) => Limit::UpTo(loads.at(at)),
        Edge::Beyond => Limit::Everywhere,
    };
    let beyond = match found.edge {
        Edge::Before => known.get(&place(0)),
        Edge::After(at) => known.get(&place(at + 1)),
        Edge::Beyond => None,
    };
    let mut exceptions: Vec<f64> = found.exceptions.iter().map(|at| loads.at(place(*at))).collect();
    exceptions.sort_by(f64::total_cmp);
    Answer {
        question: question.clone(),
        direction,
        limit: limit(found.edge),
        interval: (seeds > 1).then(|| found.interval.map(limit)),
        exceptions,
        fails: beyond.and_then(|points| question::worst_target(question, points)),
        not_compared_from: not_compared_from(question, known).map(|place| loads.at(place)),
    }
}

/// The first of the last places at which the sides of a comparison cannot be compared.
fn not_compared_from(question: &Question, known: &Known) -> Option<usize> {
    let Question::Beats { candidate, baseline, .. } = question else { return None };
    let both = known.iter().rev().filter_map(|(place, points)| {
        let states = points.get(candidate).zip(points.get(baseline));
        states.map(|(a, b)| (*place, compare(a, b)))
    });
    both.take_while(|(_, compares)| !compares).last().map(|(place, _)| place)
}

#[cfg(test)]
mod tests;
