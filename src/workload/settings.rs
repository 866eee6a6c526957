//! The workloads that an experiment can ask for.

use super::arrivals::{ArrivalSettings, Arrivals};
use super::client::Client;
use super::connections::Connected;
use super::conversations::{ConversationSettings, Conversations};
use super::inference_perf::{InferencePerf, InferencePerfSettings, Stage};
use super::prefix_ratio::PrefixRatioSettings;
use super::requests::{RequestSettings, Requests};
use super::sessions::{SessionSettings, Sessions};
use super::tokenizer::Tokenized;
use super::trace::{Regrouped, Trace, TraceError, TraceReplay, TraceSettings};
use super::{Clients, PatienceSettings, Priorities, Retries, Workload};
use crate::metrics::catalogue;
use crate::settings::Invalid;
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The section `[workload]` of an experiment; `kind` names the variant.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one for each experiment")]
pub enum WorkloadSettings {
    /// A closed loop of multi-turn conversations.
    Conversations(ConversationSettings),
    /// A closed or open loop of single requests.
    Requests(RequestSettings),
    /// The prefix-ratio benchmark: single requests, of which some share a part.
    PrefixRatio(PrefixRatioSettings),
    /// The load of inference-perf: stages of single requests that share texts.
    InferencePerf(InferencePerfSettings),
    /// An open loop of sessions.
    Sessions(SessionSettings),
    /// A replay of a recorded trace, in an open or closed loop.
    Trace(TraceSettings),
}

impl WorkloadSettings {
    /// Refuses settings that no run can use.
    ///
    /// # Errors
    /// The first unusable key, relative to the section.
    pub fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Conversations(settings) => settings.validate(),
            Self::Requests(settings) => settings.validate(),
            Self::PrefixRatio(settings) => settings.validate(),
            Self::InferencePerf(settings) => settings.validate(),
            Self::Sessions(settings) => settings.validate(),
            Self::Trace(settings) => settings.validate(),
        }
    }

    /// Conversations or clients at the same time, if the workload is a closed loop.
    pub fn concurrency(&self) -> Option<u32> {
        match self {
            Self::Conversations(settings) => Some(settings.concurrency),
            Self::Requests(settings) => settings.concurrency,
            Self::PrefixRatio(settings) => settings.concurrency,
            Self::InferencePerf(_) | Self::Sessions(_) => None,
            Self::Trace(settings) => settings.concurrency,
        }
    }

    /// The stages of a load that comes in stages, each a level of one run; none of others.
    pub fn stages(&self) -> &[Stage] {
        match self {
            Self::InferencePerf(settings) => &settings.stages,
            Self::Conversations(_)
            | Self::Requests(_)
            | Self::PrefixRatio(_)
            | Self::Sessions(_)
            | Self::Trace(_) => &[],
        }
    }

    /// True if the workload never ends by itself.
    pub fn is_endless(&self) -> bool {
        match self {
            Self::Conversations(_) => true,
            Self::Requests(settings) => settings.count.is_none(),
            Self::Sessions(settings) => settings.count.is_none(),
            Self::PrefixRatio(_) | Self::InferencePerf(_) | Self::Trace(_) => false,
        }
    }

    /// Reads whatever files the workload needs, once for all runs and seeds.
    /// Public traces are looked for in `trace_folder` (what SIM_TRACES names, if
    /// anything), then in `../traces` seen from `experiment_folder`.
    ///
    /// # Errors
    /// If a file is not there or not as it should be.
    pub fn load(
        &self,
        experiment_folder: &Path,
        trace_folder: Option<&Path>,
    ) -> Result<WorkloadSource, TraceError> {
        self.load_or_reuse(experiment_folder, trace_folder, &[])
    }

    /// As [`load`](Self::load), with files that one of `known` has read already.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_or_reuse(
        &self,
        experiment_folder: &Path,
        trace_folder: Option<&Path>,
        known: &[(Arc<Self>, Arc<WorkloadSource>)],
    ) -> Result<WorkloadSource, TraceError> {
        Ok(match self {
            Self::Conversations(settings) => WorkloadSource::Conversations(settings.clone()),
            Self::Requests(settings) => WorkloadSource::Requests(settings.clone()),
            Self::PrefixRatio(settings) => WorkloadSource::Requests(settings.requests()),
            Self::InferencePerf(settings) => WorkloadSource::InferencePerf(settings.clone()),
            Self::Sessions(settings) => WorkloadSource::Sessions(settings.clone()),
            Self::Trace(settings) => {
                let same = known.iter().find_map(|(known, source)| match (&**known, &**source) {
                    (Self::Trace(known), WorkloadSource::Trace { trace, regrouped, .. })
                        if settings.reads_as(known) =>
                    {
                        Some((Arc::clone(trace), regrouped.clone()))
                    }
                    _ => None,
                });
                let (trace, regrouped) = match same {
                    Some(same) => same,
                    None => {
                        let folders = trace_folder.map(Path::to_owned).into_iter();
                        let folders: Vec<PathBuf> =
                            folders.chain([experiment_folder.join("../traces")]).collect();
                        let trace = settings.load(experiment_folder, &folders)?;
                        (Arc::new(trace), Regrouped::default())
                    }
                };
                settings.validate_for(&trace)?;
                WorkloadSource::Trace {
                    trace,
                    regrouped,
                    speedup: settings.speedup,
                    arrivals: settings.arrivals.clone(),
                    concurrency: settings.concurrency,
                    client: settings.client.clone(),
                    patience: settings.patience.clone(),
                    priority: settings.priority.clone(),
                }
            }
        })
    }

    /// When clients hang up.
    pub fn patience(&self) -> &PatienceSettings {
        match self {
            Self::Conversations(settings) => &settings.patience,
            Self::Requests(settings) => &settings.patience,
            Self::PrefixRatio(settings) => &settings.patience,
            Self::InferencePerf(settings) => &settings.patience,
            Self::Sessions(settings) => &settings.patience,
            Self::Trace(settings) => &settings.patience,
        }
    }

    /// True if the workload is read from a file.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Trace(_))
    }
}

/// A workload with all it needs in memory; cheap to clone and to share between threads.
#[derive(Clone, Debug)]
pub enum WorkloadSource {
    /// See [`WorkloadSettings::Conversations`].
    Conversations(ConversationSettings),
    /// See [`WorkloadSettings::Requests`] and [`WorkloadSettings::PrefixRatio`].
    Requests(RequestSettings),
    /// See [`WorkloadSettings::InferencePerf`].
    InferencePerf(InferencePerfSettings),
    /// See [`WorkloadSettings::Sessions`].
    Sessions(SessionSettings),
    /// See [`WorkloadSettings::Trace`].
    Trace {
        /// The rows.
        trace: Arc<Trace>,
        /// The same for engines with other blocks.
        regrouped: Regrouped,
        /// Timestamps are divided by this.
        speedup: f64,
        /// What first turns come by, if not by their timestamps.
        arrivals: Option<ArrivalSettings>,
        /// The clients that take them, if they come when clients are free.
        concurrency: Option<u32>,
        /// The way of requests to the router.
        client: Client,
        /// When clients hang up.
        patience: PatienceSettings,
        /// Which requests go first.
        priority: Priorities,
    },
}

impl WorkloadSource {
    /// The same without the time that requests take from their clients to the
    /// router, and what that is at `concurrency`, jitter apart. Its connections stay.
    pub fn without_client(&self, concurrency: u32) -> (Self, SimDuration) {
        let mut source = self.clone();
        let client = match &mut source {
            Self::Conversations(settings) => &mut settings.client,
            Self::Requests(settings) => &mut settings.client,
            Self::InferencePerf(settings) => &mut settings.client,
            Self::Sessions(settings) => &mut settings.client,
            Self::Trace { client, .. } => client,
        };
        let connections = client.connections;
        let client = std::mem::replace(client, Client { connections, ..Client::default() });
        let way = client.overhead + client.overhead_per_inflight * u64::from(concurrency);
        (source, way)
    }

    /// The way of its requests to the router.
    pub fn client(&self) -> &Client {
        self.clients().0
    }

    /// The workload from its start, for engines with blocks of `block_size`
    /// tokens. A trace looks at the seed for `arrivals` only.
    ///
    /// # Panics
    /// If the settings do not [`validate`](WorkloadSettings::validate).
    pub fn build(&self, block_size: u32, seed: u64) -> Box<dyn Workload> {
        let mut workload = self.build_near(block_size, seed);
        let client = self.client();
        // The others have it in them.
        let is_added = matches!(self, Self::Trace { .. }) && client.takes_time();
        if client.connections.is_some() || is_added {
            let way = is_added.then(|| (client.clone(), seed));
            workload = Box::new(Connected::new(workload, client.connections, way));
        }
        match client.tokenizer.clone() {
            Some(tokenizer) => Box::new(Tokenized::new(workload, tokenizer, seed)),
            None => workload,
        }
    }

    /// The workload as if nothing lay between its clients and the router but their way.
    fn build_near(&self, block_size: u32, seed: u64) -> Box<dyn Workload> {
        let mut workload = self.build_patient(block_size, seed);
        let (_, patience, priority) = self.clients();
        if !patience.is_endless() || !priority.are_zero() {
            workload = Box::new(Clients::new(workload, patience.clone(), priority.clone(), seed));
        }
        if let PatienceSettings { retries: retries @ 1.., retry_pause, .. } = *patience {
            workload = Box::new(Retries::after_hang_ups(workload, retries, retry_pause));
        }
        match &patience.on_refusal {
            Some(on_refusal) if on_refusal.retries > 0 => {
                Box::new(Retries::after_refusals(workload, on_refusal.clone(), seed))
            }
            _ => workload,
        }
    }

    /// When clients hang up.
    pub fn patience(&self) -> &PatienceSettings {
        self.clients().1
    }

    /// The way of requests to the router, when clients hang up, and which requests go first.
    fn clients(&self) -> (&Client, &PatienceSettings, &Priorities) {
        match self {
            Self::Conversations(s) => (&s.client, &s.patience, &s.priority),
            Self::Requests(s) => (&s.client, &s.patience, &s.priority),
            Self::InferencePerf(s) => (&s.client, &s.patience, &s.priority),
            Self::Sessions(s) => (&s.client, &s.patience, &s.priority),
            Self::Trace { client, patience, priority, .. } => (client, patience, priority),
        }
    }

    /// The process by which first requests come, where there is one.
    pub(crate) fn arrivals(&self) -> Option<&ArrivalSettings> {
        match self {
            Self::Requests(settings) => settings.arrivals.as_ref(),
            Self::Sessions(settings) => Some(&settings.arrivals),
            Self::Trace { arrivals, .. } => arrivals.as_ref(),
            Self::Conversations(_) | Self::InferencePerf(_) => None,
        }
    }

    /// What was read from a file.
    fn trace(&self) -> Option<&Trace> {
        match self {
            Self::Trace { trace, .. } => Some(trace),
            Self::Conversations(_)
            | Self::Requests(_)
            | Self::InferencePerf(_)
            | Self::Sessions(_) => None,
        }
    }

    /// The workload with clients that wait for ever, and have no priorities.
    fn build_patient(&self, block_size: u32, seed: u64) -> Box<dyn Workload> {
        match self {
            Self::Conversations(settings) => {
                Box::new(Conversations::new(settings.clone(), block_size, seed))
            }
            Self::Requests(settings) => Box::new(Requests::new(settings.clone(), block_size, seed)),
            Self::InferencePerf(settings) => {
                Box::new(InferencePerf::new(settings.clone(), block_size, seed))
            }
            Self::Sessions(settings) => Box::new(Sessions::new(settings.clone(), block_size, seed)),
            Self::Trace { trace, regrouped, speedup, arrivals, concurrency, .. } => {
                let trace = regrouped.of(trace, block_size);
                let replay = TraceReplay::new(trace, block_size, *speedup);
                Box::new(match (arrivals, concurrency) {
                    (Some(settings), _) => {
                        replay.with_arrivals(Arrivals::new(settings.clone(), seed))
                    }
                    (None, Some(clients)) => replay.with_clients(*clients),
                    (None, None) => replay,
                })
            }
        }
    }
}

impl WorkloadSource {
    /// What was assumed of the files that were read, a sentence each.
    pub fn notices(&self) -> &[String] {
        self.trace().map_or(&[], |trace| &trace.found().notices)
    }

    /// Metrics of what was left out when files were read; none if nothing was read.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let Some(found) = self.trace().map(Trace::found) else { return Vec::new() };
        vec![
            (catalogue::ROWS_LEFT_OUT.stem, found.rows_left_out),
            (catalogue::SESSIONS_BROKEN.stem, found.sessions_broken),
        ]
    }

    /// SHA-256 over what was read from files; `None` if nothing was.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.trace().map(Trace::digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestId;
    use crate::time::SimTime;

    /// The published deployment's workload, as the experiment file has it.
    fn doks() -> WorkloadSettings {
        let file: toml::Table =
            toml::from_str(include_str!("../../experiments/doks-3xh200.toml")).unwrap();
        file["workload"].clone().try_into().unwrap()
    }

    #[test]
    fn doks_workload_has_the_published_means() {
        let settings = doks();
        settings.validate().unwrap();
        assert_eq!(settings.concurrency(), Some(60));
        let mut workload = settings.load(Path::new("."), None).unwrap().build(32, 1);
        let (mut outputs, mut overheads, mut capped, count) = (0, 0.0, 0, 20_000);
        for id in 0..count {
            let arrival = workload.take();
            outputs += arrival.request.output_tokens;
            capped += u32::from(arrival.request.output_tokens == arrival.request.max_tokens);
            overheads += (arrival.at - arrival.sent).as_millis();
            let tokens = arrival.request.prompt_tokens;
            assert!((3_625..=5_000 + 5 * 92 + 4 * 1_024).contains(&tokens), "{tokens}");
            workload.observe_end(arrival.at, RequestId(id), true);
        }
        let (output, overhead) =
            (f64::from(outputs) / f64::from(count), overheads / f64::from(count));
        assert!((output - 855.0).abs() < 8.0, "{output} tokens an answer");
        assert!((overhead - 181.0).abs() < 0.5, "{overhead} ms outside the engine");
        assert!(capped * 20 > count, "{capped} of {count} at the cap");
    }

    #[test]
    fn same_seed_same_requests() {
        let source = doks().load(Path::new("."), None).unwrap();
        let first = |seed| {
            let arrival = source.build(32, seed).take();
            (arrival.at, arrival.request)
        };
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn settings_survive_being_written() {
        let trace: WorkloadSettings =
            toml::from_str("kind = 'trace'\npath = 'x'\nspeedup = 1.5").unwrap();
        let retrying = "kind = 'requests'\nconcurrency = 1\nprompt_tokens = { kind = 'constant', \
                        value = 9 }\noutput_tokens = { kind = 'constant', value = 9 }\n\
                        patience.on_refusal.retries = 3";
        for settings in [doks(), trace, toml::from_str(retrying).unwrap()] {
            let json = serde_json::to_string(&settings).unwrap();
            assert_eq!(serde_json::from_str::<WorkloadSettings>(&json).unwrap(), settings);
            let toml = toml::to_string(&settings).unwrap();
            assert_eq!(toml::from_str::<WorkloadSettings>(&toml).unwrap(), settings);
        }
    }

    #[test]
    fn unknown_keys_and_kinds_are_refused() {
        let read = |toml: &str| toml::from_str::<WorkloadSettings>(toml);
        let error = |toml: &str| read(toml).unwrap_err().message().to_owned();
        assert!(read("kind = 'trace'\npath = 'x'").is_ok());
        assert!(error("kind = 'trace'\npath = 'x'\nspedup = 2").contains("`spedup`"));
        assert!(error("kind = 'traces'").contains(
            "`conversations`, `requests`, `prefix_ratio`, `inference_perf`, `sessions`, `trace`"
        ));
        assert!(error("path = 'x'").contains("kind"));
    }

    #[test]
    fn traces_are_found_beside_the_experiments_too() {
        let folder = tempfile::tempdir().unwrap();
        let (traces, experiments) = (folder.path().join("traces"), folder.path().join("e"));
        std::fs::create_dir_all(&traces).unwrap();
        std::fs::create_dir_all(&experiments).unwrap();
        let fixture = include_str!("../../traces/fixtures/mooncake-small.jsonl");
        std::fs::write(traces.join("conversation_trace.jsonl"), fixture).unwrap();
        let settings: WorkloadSettings =
            toml::from_str("kind = 'trace'\ntrace = 'mooncake-conversation'\nspeedup = 3").unwrap();
        settings.validate().unwrap();
        let mut workload = settings.load(&experiments, Some(Path::new("no"))).unwrap().build(16, 0);
        for _ in 0..5 {
            workload.take();
        }
        assert_eq!(workload.next_arrival().map(SimTime::as_millis), Some(3_000.0));
        workload.take();
        assert_eq!(workload.next_arrival(), None);
    }
}
