//! Up to which load: where one policy stops beating another, and the largest
//! load at which a policy meets its targets.
//!
//! Loads are searched by bisection on a grid. Every load is simulated once, with
//! all seeds, from cold caches; policies meet the same conversations seed by
//! seed. The interval of an answer is where the 95 % interval (Student's t over
//! seeds) of the difference, or of the metric, includes the border: it begins at
//! the last load up to which all loads that were looked at are good beyond doubt,
//! and ends at the last that may be good.

mod question;
mod search;
mod state;
mod text;

pub use question::{Question, Target};
pub use state::State;

use crate::experiment::results::Point;
use crate::report::view::POLICY;
use crate::settings::Invalid;
use question::margin;
use search::{Edge, Found};
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The most loads of a grid (assumed: far finer than any answer needs).
const MOST_LOADS: usize = 1_000_000;

/// The loads that may be asked for: `from`, `from + step`, ... up to `to`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loads {
    /// Dotted key, as `workload.concurrency`.
    pub key: String,
    /// The smallest.
    pub from: f64,
    /// The largest.
    pub to: f64,
    /// How far neighbours are apart: answers are that exact.
    pub step: f64,
}

impl Loads {
    /// Checks and makes a grid.
    ///
    /// # Errors
    /// If it does not go up, or has far too many loads.
    pub fn new(key: &str, from: f64, to: f64, step: f64) -> Result<Self, Invalid> {
        let is_grid = from.is_finite() && from > 0.0 && to >= from && step > 0.0;
        let is_small = (to - from) / step < MOST_LOADS as f64;
        Invalid::unless(
            is_grid && is_small,
            "--loads",
            format!("{from}..{to}:{step}"),
            &format!(
                "FROM..TO:STEP with FROM and STEP above 0, TO not below FROM, and at most {MOST_LOADS} steps"
            ),
        )?;
        Ok(Self { key: key.to_owned(), from, to, step })
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
        // Twelve digits: 0.1 + 2 * 0.1 is 0.3 for people.
        let value = self.from + place as f64 * self.step;
        format!("{value:.11e}").parse().unwrap_or(value)
    }
}

/// The largest load at which something holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Not even at the smallest load.
    Nowhere,
    /// Up to this load.
    UpTo(f64),
    /// Still at the largest load.
    Everywhere,
}

/// What was found out about a question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// Up to where, by the means over seeds.
    pub limit: Limit,
    /// Between which limits it lies with 95 % confidence; `None` with one seed.
    pub interval: Option<[Limit; 2]>,
    /// Loads below the limit at which it does not hold all the same.
    pub exceptions: Vec<f64>,
    /// (targets) The metric that is missed first beyond the limit.
    pub fails: Option<String>,
    /// (one against another) The load from which on both are overloaded at every
    /// load that was looked at.
    pub both_overloaded: Option<f64>,
}

/// What a policy did at a load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluated {
    /// The load.
    pub load: f64,
    /// The policy.
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
    pub loads: Loads,
    /// In order of the questions.
    pub answers: Vec<Answer>,
    /// By load, policies in the order of the points.
    pub points: Vec<Evaluated>,
}

/// Answers the questions. `simulate` gives the points of all policies at a load,
/// each with the metrics that the questions ask about.
///
/// # Errors
/// Whatever `simulate` fails with.
pub fn frontier<E>(
    experiment: &str,
    seeds: &[u64],
    loads: &Loads,
    questions: &[Question],
    mut simulate: impl FnMut(f64) -> Result<Vec<Point>, E>,
) -> Result<Frontier, E> {
    let mut known: BTreeMap<usize, Vec<Point>> = BTreeMap::new();
    // Until every answer has seen all that was simulated for the others.
    let answers = loop {
        let before = known.len();
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            let seen: Vec<usize> = known.keys().copied().collect();
            let found = search::search(loads.last(), seen, |place| {
                let points = match known.entry(place) {
                    Entry::Occupied(points) => points.into_mut(),
                    Entry::Vacant(unknown) => unknown.insert(simulate(loads.at(place))?),
                };
                Ok(margin(question, points))
            })?;
            answers.push(answer(question, loads, &found, &known, seeds.len()));
        }
        if known.len() == before {
            break answers;
        }
    };
    let points = known.into_iter().flat_map(|(place, points)| {
        points.into_iter().map(move |point| Evaluated {
            load: loads.at(place),
            policy: policy(&point).to_owned(),
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
    loads: &Loads,
    found: &Found,
    known: &BTreeMap<usize, Vec<Point>>,
    seeds: usize,
) -> Answer {
    let limit = |edge: Edge| match edge {
        Edge::Before => Limit::Nowhere,
        Edge::After(place) => Limit::UpTo(loads.at(place)),
        Edge::Beyond => Limit::Everywhere,
    };
    let beyond = match found.edge {
        Edge::Before => known.get(&0),
        Edge::After(place) => known.get(&(place + 1)),
        Edge::Beyond => None,
    };
    Answer {
        question: question.clone(),
        limit: limit(found.edge),
        interval: (seeds > 1).then(|| found.interval.map(limit)),
        exceptions: found.exceptions.iter().map(|place| loads.at(*place)).collect(),
        fails: beyond.and_then(|points| question::worst_target(question, points)),
        both_overloaded: both_overloaded(question, known).map(|place| loads.at(place)),
    }
}

/// The first of the last places at which neither side of a comparison keeps up.
fn both_overloaded(question: &Question, known: &BTreeMap<usize, Vec<Point>>) -> Option<usize> {
    let Question::Beats { candidate, baseline, .. } = question else { return None };
    let is_overloaded = |points: &Vec<Point>| {
        let mut sides = points.iter().filter(|p| policy(p) == candidate || policy(p) == baseline);
        sides.all(|point| State::of(point) == State::Overloaded)
    };
    let last = known.iter().rev().take_while(|(_, points)| is_overloaded(points)).last();
    last.map(|(place, _)| *place)
}

/// The policy of a point.
fn policy(point: &Point) -> &str {
    point.params.get(POLICY).and_then(serde_json::Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;
