use super::Books;
use super::epp_config::{EppConfig, Filter, Picker, Profile, Scorer};
use super::llmd_index::{Held, IndexConfig, LlmdIndex};
use crate::event::{KvEvent, WorkerEvent};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::Bookings;
use crate::router::parameters::{Parameters, Surroundings, check_report_period};
use crate::router::select::Ties;
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Reported, Verdict};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`Llmd`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the filters, scorers and picker that an EndpointPickerConfig puts together";
    Registration::new("llmd", rule, |params: &LlmdParams, cluster, seed| {
        Llmd::new(params, cluster, seed)
    })
    .follows(
        Origin::new(
            "llm-d router",
            "config/loader, scheduling/{filter,scorer,picker}, requestcontrol/dataproducer",
        )
        .version("ebab687", "2026-11")
        .without(
            "profiles but one, or one for prefill and one for decode; the choice of a decode \
             worker when the request comes, here when its prompt is computed; flow control, \
             predicted latencies, LoRA, sessions, weights of tiers, the bound on holders of a \
             block; every plug-in that is not modelled is refused by name",
        ),
    )
    .shared()
}

/// Parameters of [`Llmd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LlmdParams {
    /// A file with an `EndpointPickerConfig`, or with Helm values that have one below
    /// `pluginsCustomConfig`. Empty: what llm-d's router does without one.
    pub config: String,
    /// Time between two reports of a worker's gauges, at least 1 ms.
    pub report_period: SimDuration,
}

impl Default for LlmdParams {
    fn default() -> Self {
        Self { config: String::new(), report_period: SimDuration::from_millis(50) }
    }
}

impl Parameters for LlmdParams {
    fn check(&self) -> Result<(), Invalid> {
        // The value is the text of a file by now.
        let wrong = |problem| Invalid::new("config", "an EndpointPickerConfig", problem);
        let parsed = EppConfig::parse(&self.config);
        parsed.map_err(|problem| wrong(format!("one that can be read: {problem}")))?;
        check_report_period(self.report_period)
    }

    fn check_in(&self, surroundings: &Surroundings) -> Result<(), Invalid> {
        let is_apart = EppConfig::parse(&self.config).is_ok_and(|config| config.is_apart());
        Invalid::unless(
            !is_apart || surroundings.has_prefill_workers != Some(false),
            "config",
            "one with profiles for prefill and decode",
            "one with a single profile: here every worker does both (or give prefill and decode \
             workers of their own: [cluster.prefill])",
        )
    }
}

/// llm-d's router as its configuration puts it together.
///
/// Filters leave some workers out, in their order; scorers give each that is left 0 to 1,
/// which are weighed and added up; a picker takes one. Sources of each part stand in
/// `epp_config.rs`. A decision looks at every worker: `llmd_token_load` is the
/// configuration of llm-d's guides without that.
#[derive(Debug)]
pub struct Llmd {
    profile: Profile,
    load_index: usize,
    report_period: SimDuration,
    cluster: ClusterSpec,
    indexes: Vec<LlmdIndex>,
    bookings: Bookings,
    /// When each worker last took a prompt that none held, by count of such prompts.
    last_cold: Vec<Option<u64>>,
    cold: u64,
    draws: Stream,
}

/// What of a prompt each worker holds by one index.
#[derive(Debug)]
struct Matched {
    held: Held,
    blocks: Vec<u32>,
}

impl Matched {
    fn share(&self, at: usize) -> f64 {
        self.held.share(self.blocks[at])
    }

    fn uncached_tokens(&self, request: &RouteRequest<'_>, at: usize) -> u64 {
        self.held.uncached_tokens(request, self.blocks[at])
    }
}

impl Llmd {
    /// A policy for `cluster`; `seed` is the randomness of its draws.
    ///
    /// # Panics
    /// If the parameters were not checked.
    pub fn new(params: &LlmdParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let config = EppConfig::parse(&params.config).unwrap_or_else(|problem| panic!("{problem}"));
        let index = |index: &IndexConfig| LlmdIndex::new(*index, cluster);
        Self {
            indexes: config.indexes.iter().map(index).collect(),
            profile: config.profile(cluster.role),
            load_index: config.load_index,
            report_period: params.report_period,
            cluster: cluster.clone(),
            bookings: Bookings::new(cluster.workers()),
            last_cold: vec![None; cluster.workers() as usize],
            cold: 0,
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    fn matched(&self, request: &RouteRequest<'_>, workers: usize) -> Vec<Matched> {
        let of = |index: &LlmdIndex| {
            let held = index.held(request);
            Matched { blocks: held.to_vec(workers), held }
        };
        self.indexes.iter().map(of).collect()
    }

    fn inflight_tokens(&self, at: usize) -> f64 {
        self.bookings.loads()[at].prefill_tokens as f64
    }

    /// The workers that the filters leave, with draws for exploration if there are any.
    fn filtered(
        &self,
        matched: &[Matched],
        view: &ClusterView<'_>,
        mut draws: Option<&mut Stream>,
    ) -> Vec<usize> {
        let mut left: Vec<usize> = view.available().map(|(at, _)| at).collect();
        for filter in &self.profile.filters {
            let Filter::Affinity {
                index,
                threshold,
                exploration,
                most_penalty_ms,
                most_penalty_tokens,
                tokens_per_s,
            } = *filter;
            if left.len() <= 1 || threshold <= 0.0 {
                continue;
            }
            if let Some(draws) = &mut draws
                && exploration > 0.0
                && draws.random::<f64>() < exploration
            {
                continue;
            }
            let is_sticky = |at: &usize| matched[index].share(*at) >= threshold;
            let (sticky, others): (Vec<usize>, Vec<usize>) =
                left.iter().partition(|at| is_sticky(at));
            let least = |workers: &[usize]| {
                workers.iter().map(|at| self.inflight_tokens(*at)).fold(f64::INFINITY, f64::min)
            };
            let penalty_tokens = least(&sticky) - least(&others);
            let ms = |tokens: f64| tokens / tokens_per_s * 1_000.0;
            let penalty_ms = ms(least(&sticky)) - ms(least(&others));
            let is_too_busy = !others.is_empty()
                && (most_penalty_ms > 0.0 && penalty_ms > most_penalty_ms
                    || most_penalty_tokens > 0.0 && penalty_tokens > most_penalty_tokens);
            if !sticky.is_empty() && !is_too_busy {
                left = sticky;
            }
        }
        left
    }

    /// The weighed sum of scores of each worker of `left`.
    fn scores(
        &self,
        request: &RouteRequest<'_>,
        matched: &[Matched],
        view: &ClusterView<'_>,
        left: &[usize],
    ) -> Vec<f64> {
        let mut sums = vec![0.0; left.len()];
        for &(scorer, weight) in &self.profile.scorers {
            let scores = self.score(scorer, request, matched, view, left);
            for (sum, score) in sums.iter_mut().zip(scores) {
                *sum += weight * score.clamp(0.0, 1.0);
            }
        }
        sums
    }

    fn score(
        &self,
        scorer: Scorer,
        request: &RouteRequest<'_>,
        matched: &[Matched],
        view: &ClusterView<'_>,
        left: &[usize],
    ) -> Vec<f64> {
        let each = |score: &dyn Fn(usize) -> f64| left.iter().map(|at| score(*at)).collect();
        // A worker that has not reported has no score by its gauges.
        let by_gauge = |gauge: fn(&Reported) -> u32| {
            let gauges: Vec<Option<u32>> =
                left.iter().map(|at| view.workers[*at].reported.as_ref().map(gauge)).collect();
            let known = || gauges.iter().flatten().copied();
            let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
            let score = |gauge: &Option<u32>| match gauge {
                None => 0.0,
                Some(_) if most == least => 1.0,
                Some(gauge) => f64::from(most - gauge) / f64::from(most - least),
            };
            gauges.iter().map(score).collect()
        };
        match scorer {
            Scorer::Prefix { index } => each(&|at| matched[index].share(at)),
            Scorer::KvUtilization => each(&|at| {
                let blocks = f64::from(self.cluster.limits[at].blocks.max(1));
                let used = view.workers[at].reported.map_or(0, |last| last.used_blocks);
                1.0 - f64::from(used) / blocks
            }),
            Scorer::Queue => by_gauge(|last| last.waiting),
            Scorer::Running => by_gauge(|last| last.running),
            Scorer::LoadAware { threshold } => each(&|at| {
                let waiting = view.workers[at].reported.map_or(0, |last| last.waiting);
                0.5 * (1.0 - f64::from(waiting).min(threshold) / threshold)
            }),
            Scorer::TokenLoad { threshold } => each(&|at| {
                let own = matched[self.load_index].uncached_tokens(request, at) as f64;
                1.0 - (self.inflight_tokens(at) + own).min(threshold) / threshold
            }),
            Scorer::ActiveRequest { idle, most_busy } => {
                let requests = |at: usize| f64::from(self.bookings.loads()[at].requests);
                let most = left.iter().map(|at| requests(*at)).fold(0.0, f64::max);
                each(&|at| {
                    let busy = requests(at);
                    if busy <= idle { 1.0 } else { (most - busy) / most * most_busy }
                })
            }
            Scorer::NoHitLru { index } => {
                if !is_cold(&matched[index], left) {
                    return vec![0.5; left.len()];
                }
                if left.len() == 1 {
                    return vec![1.0];
                }
                // Those that never took such a prompt first, in order of id, then by age.
                let mut order: Vec<usize> = (0..left.len()).collect();
                order.sort_by_key(|place| (self.last_cold[left[*place]], *place));
                let mut scores = vec![0.0; left.len()];
                for (rank, place) in order.into_iter().enumerate() {
                    scores[place] = 1.0 - rank as f64 / (left.len() - 1) as f64;
                }
                scores
            }
            Scorer::LMetric { index } => {
                let matched = &matched[index];
                let cost = |at: &usize| {
                    let blocks = matched.held.of_blocks().saturating_sub(matched.blocks[*at]);
                    let tokens = f64::from(blocks) * f64::from(matched.held.block_tokens);
                    tokens * (f64::from(self.bookings.loads()[*at].requests) + 1.0)
                };
                let costs: Vec<f64> = left.iter().map(cost).collect();
                let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
                let most = costs.iter().copied().fold(0.0, f64::max);
                let score =
                    |cost: &f64| if most > least { (most - cost) / (most - least) } else { 1.0 };
                costs.iter().map(score).collect()
            }
        }
    }

    fn pick(&self, scores: &[f64], draws: &mut Stream) -> usize {
        match self.profile.picker {
            Picker::Random => draws.random_range(0..scores.len()),
            Picker::WeightedRandom if scores.iter().any(|score| *score > 0.0) => {
                let mut rest = draws.random::<f64>() * scores.iter().sum::<f64>();
                let taken = scores.iter().position(|score| {
                    rest -= score;
                    rest < 0.0
                });
                taken.unwrap_or(scores.len() - 1)
            }
            Picker::WeightedRandom => draws.random_range(0..scores.len()),
            Picker::MaxScore => {
                let mut highest = Ties::default();
                for (place, score) in scores.iter().enumerate() {
                    highest.offer(place, -score, draws);
                }
                highest.chosen()
            }
        }
    }

    fn book_matched(&mut self, request: &RouteRequest<'_>, worker: WorkerId, matched: &[Matched]) {
        let uncached = matched[self.load_index].uncached_tokens(request, worker.index());
        self.bookings.book(request, worker, uncached);
        let cold = self.profile.scorers.iter().find_map(|(scorer, _)| match scorer {
            Scorer::NoHitLru { index } => {
                Some(matched[*index].blocks.iter().all(|held| *held == 0))
            }
            _ => None,
        });
        if cold == Some(true) {
            self.cold += 1;
            self.last_cold[worker.index()] = Some(self.cold);
        }
        self.indexes.iter_mut().for_each(|index| index.insert(request, worker));
    }
}

/// Whether none of these workers holds any of the prompt.
fn is_cold(matched: &Matched, left: &[usize]) -> bool {
    left.iter().all(|at| matched.blocks[*at] == 0)
}

impl Books for Llmd {
    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        let matched = self.matched(request, self.last_cold.len());
        self.book_matched(request, worker, &matched);
    }
}

impl Policy for Llmd {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        self.indexes.iter_mut().for_each(|index| index.expire(now));
        let mut draws = self.draws.clone();
        let matched = self.matched(request, view.workers.len());
        let left = self.filtered(&matched, view, Some(&mut draws));
        let scores = self.scores(request, &matched, view, &left);
        let worker = WorkerId::at(left[self.pick(&scores, &mut draws)]);
        self.draws = draws;
        self.book_matched(request, worker, &matched);
        self.indexes.iter_mut().for_each(|index| index.sent(now, request, worker));
        Verdict::send(worker)
    }

    fn report_period(&self) -> Option<SimDuration> {
        let reads_gauges = |(scorer, _): &(Scorer, f64)| {
            matches!(
                scorer,
                Scorer::KvUtilization | Scorer::Queue | Scorer::Running | Scorer::LoadAware { .. }
            )
        };
        self.profile.scorers.iter().any(reads_gauges).then_some(self.report_period)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        _ = self.bookings.observe(event);
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let held = u64::from(overlap_blocks) * u64::from(self.cluster.block_size);
        let uncached = u64::from(request.prompt_tokens).saturating_sub(held);
        self.bookings.book(request, worker, uncached);
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        let workers = self.last_cold.len();
        self.indexes.iter().find_map(|index| index.overlap_blocks(request, workers))
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.indexes.iter_mut().for_each(|index| index.remove_worker(worker));
        self.bookings.remove_worker(worker);
        self.last_cold[worker.index()] = None;
    }

    fn wants_kv_events(&self) -> bool {
        self.indexes.iter().any(LlmdIndex::wants_kv_events)
    }

    fn hears_kv_on_demand(&self) -> bool {
        true
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.indexes.iter_mut().for_each(|index| index.apply(worker, event));
    }

    /// The negative sum of scores, with workers that filters leave out behind the others;
    /// without exploration, and with what was sent lately as of the last decision.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let matched = self.matched(request, view.workers.len());
        let left = self.filtered(&matched, view, None);
        let scores = self.scores(request, &matched, view, &left);
        let cost = |at: usize| {
            let place = left.iter().position(|other| *other == at);
            let score = place.map(|place| scores[place]);
            let load = &self.bookings.loads()[at];
            let parts = vec![
                ("held_share", matched[self.load_index].share(at)),
                ("inflight_tokens", load.prefill_tokens as f64),
                ("requests", f64::from(load.requests)),
            ];
            CostParts { worker: WorkerId::at(at), cost: score.map_or(1.0, |score| -score), parts }
        };
        (0..view.workers.len()).map(cost).collect()
    }
}
