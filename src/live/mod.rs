//! The same experiment on real servers, beside the simulation.
//!
//! A live run is driven by the loop, the policy and the workload of a simulation.
//! What came of it is then held against three tellings of the same requests:
//! the router's own history, told to the policy again; simulated workers that
//! are sent what the servers were sent; and simulated workers behind a router
//! that decides for itself.

mod follow;
mod history;
mod outcome;
pub mod record;
mod report;

pub use follow::{Agreement, Difference};
pub use outcome::{LiveOutcome, LiveRequest, LiveRun};
pub use report::{report, requests_csv};

use crate::experiment::{
    Experiment, Params, RunOutcome, RunSpec, Settings, Watch, front_ends, play, simulate,
    simulated_fleet, summarise,
};
use crate::fleet::servers::{ApiKey, FailedRequest, LiveFleet, LiveSettings, ServerError};
use crate::id::{RequestId, WorkerId};
use crate::recorder::RequestRecord;
use crate::router::feed::FeedSettings;
use crate::router::front_end::FrontEnd;
use crate::router::policies::round_robin::RoundRobin;
use crate::router::settings::FrontEndSettings;
use crate::settings::Invalid;
use crate::simulation::Stuck;
use crate::time::SimDuration;
use follow::{Followed, Tally, tallied};
use history::{Observed, Retold, Script, Taken};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a live run begins.
#[derive(Clone, Debug, Default)]
pub struct LiveOptions {
    /// The servers.
    pub servers: LiveSettings,
    /// Sent to all of them; shown nowhere.
    pub api_key: Option<ApiKey>,
    /// Whether to go on where the servers' caches could not be emptied.
    pub keep_caches: bool,
}

/// A live run that gave no result.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A server cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The experiment cannot be carried out.
    #[error(transparent)]
    Setting(#[from] Invalid),
    /// Caches are as others left them.
    #[error(
        "{0}; start the servers with VLLM_SERVER_DEV_MODE=1, or restart them and keep their caches"
    )]
    Caches(ServerError),
    /// The workload cannot come to its end.
    #[error("{0}")]
    Stuck(#[from] Stuck),
}

/// Runs `experiment` on servers, one run after another, and simulates it.
/// `progress` hears of every run once its servers are ready for it.
///
/// # Errors
/// If a server cannot be used, or a run not be carried out.
pub fn run(
    experiment: &Experiment,
    options: &LiveOptions,
    mut progress: impl FnMut(&Params, u64),
) -> Result<LiveOutcome, LiveError> {
    let mut outcomes: [Vec<RunOutcome>; 3] = Default::default();
    let mut runs = Vec::new();
    for spec in &experiment.runs {
        check(&spec.settings, options)?;
    }
    for spec in &experiment.runs {
        for &seed in &experiment.seeds {
            let params = &experiment.points[spec.points[0]];
            let begins = || progress(params, seed);
            let (run, [real, same, own]) = run_once(spec, params, seed, options, begins)?;
            runs.push(run);
            outcomes[0].push(real);
            outcomes[1].push(same);
            outcomes[2].push(own);
        }
    }
    let [real, same, own] = outcomes.map(|outcomes| summarise(experiment, &outcomes));
    Ok(LiveOutcome { real, same, own, runs })
}

/// Refuses what real servers cannot do, or what they are too few or too many for.
pub(crate) fn check(settings: &Settings, options: &LiveOptions) -> Result<(), LiveError> {
    let (workers, servers) = (settings.pools.workers(), options.servers.urls.len());
    let allowed = format!("{servers}, as many as there are servers");
    let (key, value) = match settings.cluster.pool.is_empty() {
        true => ("cluster.workers", workers.to_string()),
        false => ("cluster.pool", format!("{workers} workers in all")),
    };
    Invalid::unless(workers as usize == servers, key, value, &allowed)?;
    let policy = settings.policy.name();
    let allowed = "any other policy: what real servers hold cannot be seen";
    Invalid::unless(
        !settings.policy.wants().truth,
        "router.policy",
        format!("{policy:?}"),
        allowed,
    )?;
    settings.check_plain(
        "real servers stay as they are, and each does all the work: no KV moves between them",
    )?;
    let allowed = "one without stages, as \"requests\": a stage waits for answers that are not \
                   known when its simulation is run beside it";
    let is_plain = settings.workload.stages().is_empty();
    Invalid::unless(is_plain, "workload.kind", "\"inference_perf\"", allowed)?;
    let allowed = "false: the regret of choices cannot be measured on real servers";
    Invalid::unless(!settings.measure.why, "measure.why", true, allowed)?;
    Ok(())
}

fn run_once(
    spec: &RunSpec,
    params: &Params,
    seed: u64,
    options: &LiveOptions,
    begins: impl FnOnce(),
) -> Result<(LiveRun, [RunOutcome; 3]), LiveError> {
    let settings = &spec.settings;
    let block_size = settings.pools.block_size();
    let watch = Watch { requests: true, ..Watch::default() };
    let direct = direct(settings);
    let ends = front_ends(&direct, seed, |policy| policy);
    let text_key = options.servers.text_key.wrapping_add(seed);
    let mut fleet = connect(settings, text_key, options, &ends)?;
    begins();
    let before = fleet.counters();
    let mut arrivals = Vec::new();
    // Real requests take their own time on their way.
    let (source, way) = settings.source.without_client(spec.levels[0]);
    let workload = source.build(block_size, seed);
    let workload = Box::new(Taken { workload, arrivals: &mut arrivals });
    fleet.start();
    let observed = Observed::new(fleet);
    let (mut real, Observed { fleet, history, .. }) =
        play(&direct, &spec.levels, (observed, workload, ends), (seed, watch))?;
    // Servers do not say when they schedule a request.
    for level in &mut real.levels {
        level.retain(|name, _| !name.starts_with("queue_"));
    }
    let records = &mut real.requests;
    records.sort_by_key(|record| record.request);

    let all = Script::new(&arrivals, records, true, SimDuration::ZERO);
    let on_history = follow(&direct, seed, &all, |ends| {
        let retold = Retold::new(history, &all, settings.pools.workers());
        play(&direct, &spec.levels, (retold, all.play(), ends), (seed, Watch::default())).map(drop)
    })?;

    let script = Script::new(&arrivals, records, false, way);
    let (mut same, mut simulated_steps) = (None, vec![0; settings.pools.workers() as usize]);
    let on_simulation = follow(settings, seed, &script, |ends| {
        let mut fleet = simulated_fleet(settings, &ends, false);
        fleet.record_steps();
        let (outcome, mut fleet) =
            play(settings, &spec.levels, (fleet, script.play(), ends), (seed, watch))?;
        for step in fleet.take_steps() {
            simulated_steps[step.worker.index()] += step.steps;
        }
        same = Some(outcome);
        Ok(())
    })?;
    let same = same.expect("it was played");
    let own = simulate(settings, &spec.levels, seed, Watch::default())?;

    let original = |id: RequestId| script.requests[id.index()].original;
    let mut simulated: BTreeMap<RequestId, &RequestRecord> =
        same.requests.iter().map(|record| (original(record.request), record)).collect();
    let mut failed: BTreeMap<RequestId, &FailedRequest> =
        fleet.failed().iter().map(|failed| (failed.request, failed)).collect();
    let requests = records.iter().map(|real| LiveRequest {
        real: *real,
        simulated: simulated.remove(&real.request).copied(),
        failed: failed.remove(&real.request).cloned(),
    });
    let counted = before.into_iter().zip(fleet.counters());
    let run = LiveRun {
        params: params.clone(),
        seed,
        text_key,
        requests: requests.collect(),
        on_history,
        on_simulation,
        same_worker: same_worker(settings, spec, seed, &script)?,
        event_faults: fleet.event_faults().cloned().collect(),
        passed_over: fleet.passed_over().cloned().collect(),
        facts: fleet.facts().cloned().collect(),
        counted: counted.map(|(before, after)| Some(after?.since(&before?))).collect(),
        simulated_steps,
        arrivals,
    };
    Ok((run, [real, same, own]))
}

/// `settings` without a feed: the wires between servers and router have a delay of their own.
pub(crate) fn direct(settings: &Settings) -> Settings {
    let count_copies = settings.router.feed.count_copies;
    let feed = FeedSettings { count_copies, ..FeedSettings::instant() };
    let router = FrontEndSettings { feed, ..FrontEndSettings::clone(&settings.router) };
    Settings { router: Arc::new(router), ..settings.clone() }
}

/// The servers, with empty caches.
pub(crate) fn connect(
    settings: &Settings,
    text_key: u64,
    options: &LiveOptions,
    ends: &[FrontEnd],
) -> Result<LiveFleet, LiveError> {
    let servers = LiveSettings { text_key, ..options.servers.clone() };
    let wants_kv_events = ends.iter().any(FrontEnd::wants_kv_events);
    let api_key = options.api_key.as_ref();
    let mut fleet = LiveFleet::connect(&servers, &settings.pools, api_key, wants_kv_events)?;
    match fleet.reset_caches() {
        Err(error) if !options.keep_caches => return Err(LiveError::Caches(error)),
        _ => {}
    }
    if ends.iter().any(FrontEnd::wants_output_blocks) {
        fleet.tell_output_blocks();
    }
    Ok(fleet)
}

/// Plays a script with front ends that follow it; what the policy says to it, if
/// it can be asked.
fn follow(
    settings: &Settings,
    seed: u64,
    script: &Script,
    play: impl FnOnce(Vec<FrontEnd>) -> Result<(), Stuck>,
) -> Result<Option<Agreement>, Stuck> {
    let is_asked = settings.policy.about().can_follow;
    let tally = Tally::default();
    let taken: Arc<[(RequestId, WorkerId)]> =
        script.requests.iter().map(|sent| (sent.original, sent.worker)).collect();
    play(front_ends(settings, seed, |policy| {
        let (taken, tally) = (Arc::clone(&taken), Arc::clone(&tally));
        let policy = if is_asked { policy } else { Box::new(RoundRobin::default()) };
        Box::new(Followed { policy, is_asked, taken, tally })
    }))?;
    Ok(is_asked.then(|| tallied(&tally)))
}

/// How many requests of `script` the policy sends to the same worker by itself,
/// in front of simulated workers; and of how many.
fn same_worker(
    settings: &Settings,
    spec: &RunSpec,
    seed: u64,
    script: &Script,
) -> Result<(u64, u64), Stuck> {
    let ends = front_ends(settings, seed, |policy| policy);
    let fleet = simulated_fleet(settings, &ends, false);
    let watch = Watch { requests: true, ..Watch::default() };
    let (alone, _) = play(settings, &spec.levels, (fleet, script.play(), ends), (seed, watch))?;
    let sent =
        alone.requests.iter().filter_map(|record| Some((record.request, record.dispatched?.1)));
    let same = sent.filter(|(id, worker)| script.requests[id.index()].worker == *worker).count();
    Ok((same as u64, script.requests.len() as u64))
}
