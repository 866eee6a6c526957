//! One decision of a saved run, taken apart.
//!
//! Nothing of a decision is saved but what came of it. So its simulation runs
//! again, from the experiment and the seed, with an eye on the request; the
//! digest says whether it was the same simulation.

use super::load::{Experiment, LEVEL_KEYS, hex, show};
use super::results::SavedRuns;
use super::run_spec::{Params, RunSpec};
use super::simulate::{RunOutcome, Watch, simulate};
use crate::id::RequestId;
use crate::recorder::{End, RequestRecord};
use crate::settings::{plain, same};
use crate::simulation::{Decision, Stuck};
use crate::time::{SimDuration, SimTime};

/// Which decision.
#[derive(Clone, Debug)]
pub struct DecisionQuery {
    /// The request.
    pub pick: Pick,
    /// Parameters with their values as text: only points that have them.
    pub at: Vec<(String, String)>,
    /// The seed; the first of the experiment if not given.
    pub seed: Option<u64>,
}

/// Which request of the points chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pick {
    /// This one.
    Request(RequestId),
    /// The one at a quantile of all measured requests; 1 is the worst.
    Quantile(Latency, f64),
}

/// A time of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// From the client's sending to the first token.
    Ttft,
    /// From dispatch to the first batch.
    Queue,
    /// From the client's sending to the last token.
    EndToEnd,
}

/// A decision, what it was about and what came of it.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The point.
    pub params: Params,
    /// The seed.
    pub seed: u64,
    /// Tokens of a block.
    pub block_size: u32,
    /// By worker: the name of its pool, where there are several.
    pub pools: Vec<String>,
    /// The decision.
    pub decision: Decision,
    /// What became of the request.
    pub record: RequestRecord,
}

/// A decision that cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// No point has the parameters asked for.
    #[error("no point of these results has {wanted}; they have {points}")]
    NoPoint {
        /// What was asked for.
        wanted: String,
        /// What there is.
        points: String,
    },
    /// The seed was not run.
    #[error("seed {seed}: these results have the seeds {seeds:?}")]
    Seed {
        /// The seed asked for.
        seed: u64,
        /// The seeds there are.
        seeds: Vec<u64>,
    },
    /// Requests are numbered in each simulation.
    #[error(
        "request {request}: each of {runs} simulations counts its own requests; choose one of \
         {simulations}"
    )]
    Ambiguous {
        /// The request asked for.
        request: RequestId,
        /// Simulations that fit.
        runs: usize,
        /// What they differ in.
        simulations: String,
    },
    /// The simulation has no such request.
    #[error("request {request}: the simulation at {point} with seed {seed} {has}")]
    NoRequest {
        /// The request asked for.
        request: RequestId,
        /// The point.
        point: String,
        /// The seed.
        seed: u64,
        /// The requests it has.
        has: String,
    },
    /// No router decided about the request.
    #[error(
        "request {request}: no policy decided about it in the simulation at {point} with seed \
         {seed}: {became}"
    )]
    NotDecided {
        /// The request asked for.
        request: RequestId,
        /// The point.
        point: String,
        /// The seed.
        seed: u64,
        /// What became of it before.
        became: String,
    },
    /// Nothing was measured.
    #[error("no request of {points} has that time: none was measured, or none came so far")]
    NothingMeasured {
        /// The points.
        points: String,
    },
    /// A timeline of a time at which nothing runs.
    #[error(
        "{from}s..{to}s: no step runs then in the simulation at {point} with seed {seed}; \
         its measured part is {begin} s to {end} s"
    )]
    Window {
        /// Begin asked for, in seconds since the start of the simulation.
        from: f64,
        /// End asked for.
        to: f64,
        /// The point.
        point: String,
        /// The seed.
        seed: u64,
        /// Begin of the measured part.
        begin: f64,
        /// End of the measured part.
        end: f64,
    },
    /// The simulation came out differently.
    #[error(
        "the simulation at {point} with seed {seed} gave the digest {now} and gave {then} when \
         these results were saved: they come from other code or another platform; run the \
         experiment again"
    )]
    Digest {
        /// The point.
        point: String,
        /// The seed.
        seed: u64,
        /// The digest now.
        now: String,
        /// The digest saved.
        then: String,
    },
    /// The simulation could not be carried out.
    #[error("{point}, seed {seed}: {source}")]
    Stuck {
        /// The point.
        point: String,
        /// The seed.
        seed: u64,
        /// Why.
        source: Stuck,
    },
}

/// Takes a decision of `experiment` apart, whose results `saved` belongs to.
///
/// # Errors
/// If there is no such decision, several, or the simulation is not the one saved.
pub fn explain(
    experiment: &Experiment,
    saved: &SavedRuns,
    choice: &DecisionQuery,
) -> Result<Explained, ExplainError> {
    let again = Again { experiment, saved, seed: seed(experiment, choice.seed)? };
    let points = points(experiment, &choice.at)?;
    let (run, request) = match choice.pick {
        Pick::Request(request) => (again.only_run(request, &points)?, request),
        Pick::Quantile(latency, quantile) => again.quantile(latency, quantile, &points)?,
    };
    let decision_of = Some(request);
    let watch = Watch { requests: true, why: true, decision_of, ..Watch::default() };
    let outcome = again.simulate(run, watch)?;
    let spec = &experiment.runs[run];
    let record = outcome.requests.iter().find(|record| record.request == request).copied();
    if let (None, Some(record)) = (&outcome.decision, record) {
        let became = match record.end {
            Some((_, End::Rejected(reason))) => format!("it was refused before, {reason}"),
            Some((_, End::GivenUp)) => "its client hung up before".to_owned(),
            _ => "it had not reached the policy when the simulation ended".to_owned(),
        };
        let (point, seed) = (again.point(run), again.seed);
        return Err(ExplainError::NotDecided { request, point, seed, became });
    }
    let (Some(decision), Some(record)) = (outcome.decision, record) else {
        let has = match outcome.requests.iter().map(|record| record.request).max() {
            Some(last) => format!("has requests 0 to {last}"),
            None => "has none".to_owned(),
        };
        let point = again.point(run);
        return Err(ExplainError::NoRequest { request, point, seed: again.seed, has });
    };
    Ok(Explained {
        params: experiment.points[spec.points[level_at(spec, decision.at)]].clone(),
        seed: again.seed,
        block_size: spec.settings.pools.block_size(),
        pools: spec.settings.pools.names(),
        decision,
        record,
    })
}

pub(super) fn seed(experiment: &Experiment, wanted: Option<u64>) -> Result<u64, ExplainError> {
    let seeds = &experiment.seeds;
    let seed = wanted.unwrap_or(seeds[0]);
    if seeds.contains(&seed) {
        return Ok(seed);
    }
    Err(ExplainError::Seed { seed, seeds: seeds.clone() })
}

/// Indices of the points that have the parameters asked for.
pub(super) fn points(
    experiment: &Experiment,
    at: &[(String, String)],
) -> Result<Vec<usize>, ExplainError> {
    let has = |params: &Params, (key, text): &(String, String)| {
        let wanted = serde_json::from_str(text).unwrap_or_else(|_| text.clone().into());
        params.get(key).is_some_and(|value| same(value, &wanted) || plain(value) == *text)
    };
    let fits = |params: &Params| at.iter().all(|wanted| has(params, wanted));
    let all = experiment.points.iter().enumerate();
    let found: Vec<usize> = all.filter(|(_, params)| fits(params)).map(|(at, _)| at).collect();
    if found.is_empty() {
        let pairs = at.iter().map(|(key, value)| format!("{key} = {value}"));
        let wanted = pairs.collect::<Vec<_>>().join(" and ");
        let points = list(experiment, &(0..experiment.points.len()).collect::<Vec<_>>());
        return Err(ExplainError::NoPoint { wanted, points });
    }
    Ok(found)
}

/// Some points, for a message.
fn list(experiment: &Experiment, points: &[usize]) -> String {
    some(points.iter().map(|&point| show(&experiment.points[point])).collect())
}

/// The first of many texts, for a message.
fn some(mut texts: Vec<String>) -> String {
    const MOST: usize = 8;
    let left_out = texts.len().saturating_sub(MOST);
    texts.truncate(MOST);
    let text = texts.join("; ");
    if left_out > 0 { format!("{text}; and {left_out} more") } else { text }
}

/// Runs simulations of saved results again.
pub(super) struct Again<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) saved: &'a SavedRuns,
    pub(super) seed: u64,
}

impl Again<'_> {
    pub(super) fn simulate(
        &self,
        run: usize,
        watch: Watch<'_>,
    ) -> Result<RunOutcome, ExplainError> {
        let Self { experiment, seed, .. } = *self;
        let spec = &experiment.runs[run];
        let outcome = simulate(&spec.settings, &spec.levels, seed, watch);
        let outcome = outcome.map_err(|source| ExplainError::Stuck {
            point: self.point(run),
            seed,
            source,
        })?;
        let (now, then) = (hex(&outcome.digest), self.digest(run).to_owned());
        if now != then {
            return Err(ExplainError::Digest { point: self.point(run), seed, now, then });
        }
        Ok(outcome)
    }

    /// As it was saved; empty if it was not.
    pub(super) fn digest(&self, run: usize) -> &str {
        let seeds = &self.experiment.seeds;
        let place = seeds.iter().position(|other| *other == self.seed).expect("one of the seeds");
        self.saved.digests.get(run * seeds.len() + place).map_or("", String::as_str)
    }

    pub(super) fn point(&self, run: usize) -> String {
        show(&self.experiment.points[self.experiment.runs[run].points[0]])
    }

    /// A simulation in words; levels that follow each other in it do not tell it
    /// from others.
    fn simulation(&self, run: usize) -> String {
        let points = &self.experiment.runs[run].points;
        let mut params = self.experiment.points[points[0]].clone();
        if points.len() > 1 {
            params.retain(|key, _| !LEVEL_KEYS.contains(&key.as_str()));
        }
        show(&params)
    }

    /// The runs that some of the points belong to.
    pub(super) fn runs(&self, points: &[usize]) -> Vec<usize> {
        let runs = self.experiment.runs.iter().enumerate();
        let has = |run: &RunSpec| run.points.iter().any(|point| points.contains(point));
        runs.filter(|(_, run)| has(run)).map(|(at, _)| at).collect()
    }

    fn only_run(&self, request: RequestId, points: &[usize]) -> Result<usize, ExplainError> {
        match self.runs(points)[..] {
            [run] => Ok(run),
            ref runs => {
                let shown = runs.iter().map(|&run| self.simulation(run));
                let simulations = some(shown.collect());
                Err(ExplainError::Ambiguous { request, runs: runs.len(), simulations })
            }
        }
    }

    /// The request at `quantile` of a latency, by the nearest rank.
    fn quantile(
        &self,
        latency: Latency,
        quantile: f64,
        points: &[usize],
    ) -> Result<(usize, RequestId), ExplainError> {
        let mut found: Vec<(SimDuration, usize, RequestId)> = Vec::new();
        for run in self.runs(points) {
            let spec = &self.experiment.runs[run];
            let wanted: Vec<bool> = spec.points.iter().map(|p| points.contains(p)).collect();
            let outcome = self.simulate(run, Watch { requests: true, ..Watch::default() })?;
            found.extend(outcome.requests.iter().filter_map(|record| {
                let (at, value) = latency.of(record)?;
                let measured = wanted[level_at(spec, at)] && is_measured(spec, at);
                measured.then_some((value, run, record.request))
            }));
        }
        found.sort_unstable();
        let last = found.len().checked_sub(1).ok_or_else(|| ExplainError::NothingMeasured {
            points: list(self.experiment, points),
        })?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to last")]
        let place = (last as f64 * quantile.clamp(0.0, 1.0)).round() as usize;
        let (_, run, request) = found[place];
        Ok((run, request))
    }
}

impl Latency {
    /// When it became known, and what it was.
    fn of(self, record: &RequestRecord) -> Option<(SimTime, SimDuration)> {
        let first_token = record.first_token?;
        match self {
            Self::Ttft => Some((first_token, first_token - record.sent)),
            Self::Queue => {
                Some((first_token, record.scheduled? - record.dispatched.map(|(at, _)| at)?))
            }
            Self::EndToEnd => match record.end? {
                (at, End::Finished { .. }) => Some((at, at - record.sent)),
                (_, End::Rejected(_) | End::Failed | End::GivenUp) => None,
            },
        }
    }
}

/// Time of a level; none where the workload decides.
fn level_time(spec: &RunSpec) -> Option<SimDuration> {
    spec.settings.measure.window.map(|window| spec.settings.measure.warmup + window)
}

/// The level of a run that `at` lies in.
fn level_at(spec: &RunSpec, at: SimTime) -> usize {
    let last = spec.points.len() - 1;
    let level = level_time(spec).map_or(0, |time| at.as_ps() / time.as_ps());
    usize::try_from(level).map_or(last, |level| level.min(last))
}

/// True if `at` lies in the measured part of its level.
fn is_measured(spec: &RunSpec, at: SimTime) -> bool {
    let into = level_time(spec).map_or(at.as_ps(), |time| at.as_ps() % time.as_ps());
    into >= spec.settings.measure.warmup.as_ps()
}
