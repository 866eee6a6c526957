//! What browsers see, between the thread that simulates and those that serve.
//!
//! The engine leaves its state here and goes on; it waits for no reader. A reader has a
//! cursor: what it has not seen of the lines over time comes with the next look, whenever
//! that is.

use super::arm::ArmView;
use super::session::Sample;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// So many moments of the lines over time are kept.
const KEPT_SAMPLES: usize = 4_000;

/// The state of a session at one moment.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Frame {
    /// Seconds of the simulation.
    pub(super) t: f64,
    /// Simulated seconds a second; `None`: as fast as it goes.
    pub(super) speed: Option<f64>,
    pub(super) paused: bool,
    /// Simulated seconds a second, of late.
    pub(super) achieved: f64,
    pub(super) window_s: f64,
    pub(super) seed: u64,
    /// Moves that are to come.
    pub(super) pending: usize,
    /// Where it runs to by itself, in seconds.
    pub(super) goal_s: Option<f64>,
    /// Why it cannot go on.
    pub(super) end: Option<String>,
    /// The last moves in words, the latest last.
    pub(super) log: Vec<LogLine>,
    pub(super) moves: usize,
    pub(super) arms: Vec<ArmView>,
}

/// A move in words.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LogLine {
    pub(super) t: f64,
    pub(super) arm: Option<usize>,
    pub(super) what: &'static str,
    pub(super) words: String,
}

/// What is shown, shared.
#[derive(Debug)]
pub(super) struct Hub {
    shared: Mutex<Shared>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Shared {
    /// What stays the same until a session restarts.
    hello: Arc<Value>,
    /// Counts sessions.
    epoch: u64,
    frame: Option<Arc<Frame>>,
    samples: VecDeque<Arc<Sample>>,
    /// Samples that are no longer kept.
    dropped: u64,
    baselines: Option<Arc<Value>>,
}

/// How far a reader has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    epoch: u64,
    samples: u64,
    has_baselines: bool,
}

impl Hub {
    pub(super) fn new() -> Self {
        let shared = Shared {
            hello: Arc::new(Value::Null),
            epoch: 0,
            frame: None,
            samples: VecDeque::new(),
            dropped: 0,
            baselines: None,
        };
        Self { shared: Mutex::new(shared), changed: watch::Sender::new(0) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins.
    pub(super) fn begin(&self, hello: Value) {
        let mut shared = self.shared();
        shared.epoch += 1;
        (shared.hello, shared.frame) = (Arc::new(hello), None);
        (shared.samples, shared.dropped) = (VecDeque::new(), 0);
    }

    pub(super) fn add(&self, sample: Sample) {
        let mut shared = self.shared();
        if shared.samples.len() == KEPT_SAMPLES {
            shared.samples.pop_front();
            shared.dropped += 1;
        }
        shared.samples.push_back(Arc::new(sample));
    }

    pub(super) fn show(&self, frame: Frame) {
        self.shared().frame = Some(Arc::new(frame));
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn set_baselines(&self, baselines: Value) {
        self.shared().baselines = Some(Arc::new(baselines));
        self.changed.send_modify(|count| *count += 1);
    }

    /// Hears that there is something to see.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What a reader has not seen: events by name, each with its JSON.
    pub(super) fn read(&self, cursor: &mut Cursor) -> Vec<(&'static str, String)> {
        let mut events = Vec::new();
        // The lock is held for as long as it takes to count references.
        let (hello, frame, samples, baselines) = {
            let shared = self.shared();
            let is_new = cursor.epoch != shared.epoch;
            if is_new {
                (cursor.epoch, cursor.samples) = (shared.epoch, 0);
            }
            let end = shared.dropped + shared.samples.len() as u64;
            let unseen = usize::try_from(end - cursor.samples.max(shared.dropped)).unwrap_or(0);
            let samples: Vec<Arc<Sample>> =
                shared.samples.iter().skip(shared.samples.len() - unseen).cloned().collect();
            cursor.samples = end;
            let baselines = shared.baselines.clone().filter(|_| is_new || !cursor.has_baselines);
            cursor.has_baselines |= baselines.is_some();
            let hello = is_new.then(|| Arc::clone(&shared.hello));
            (hello, shared.frame.clone(), samples, baselines)
        };
        if let Some(hello) = hello {
            events.push(("hello", hello.to_string()));
        }
        if let Some(baselines) = baselines {
            events.push(("baselines", baselines.to_string()));
        }
        if let Some(frame) = frame {
            let samples: Vec<&Sample> = samples.iter().map(AsRef::as_ref).collect();
            events.push(("frame", json!({ "now": *frame, "samples": samples }).to_string()));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(t: f64) -> Sample {
        Sample { t, arms: Vec::new() }
    }

    fn times(events: &[(&str, String)]) -> Vec<f64> {
        let Some((_, text)) = events.iter().find(|(name, _)| *name == "frame") else {
            return Vec::new();
        };
        let frame: Value = serde_json::from_str(text).expect("JSON");
        let samples = frame["samples"].as_array().expect("a list");
        samples.iter().filter_map(|sample| sample["t"].as_f64()).collect()
    }

    fn frame() -> Frame {
        Frame {
            t: 0.0,
            speed: None,
            paused: true,
            achieved: 0.0,
            window_s: 60.0,
            seed: 1,
            pending: 0,
            goal_s: None,
            end: None,
            log: Vec::new(),
            moves: 0,
            arms: Vec::new(),
        }
    }

    /// However seldom a reader looks, it sees every sample that is kept, once and in order.
    #[test]
    fn a_slow_reader_misses_nothing_that_is_kept() {
        let hub = Hub::new();
        hub.begin(json!({}));
        hub.show(frame());
        let (mut often, mut seldom) = (Cursor::default(), Cursor::default());
        let (mut seen_often, mut seen_seldom) = (Vec::new(), Vec::new());
        for t in 0..1_000 {
            hub.add(sample(f64::from(t)));
            seen_often.extend(times(&hub.read(&mut often)));
            if t % 333 == 0 {
                seen_seldom.extend(times(&hub.read(&mut seldom)));
            }
        }
        seen_seldom.extend(times(&hub.read(&mut seldom)));
        let all: Vec<f64> = (0..1_000).map(f64::from).collect();
        assert_eq!(seen_often, all);
        assert_eq!(seen_seldom, all);
        for t in 0..10_000 {
            hub.add(sample(f64::from(t)));
        }
        let late = times(&hub.read(&mut seldom));
        assert_eq!((late.len(), late[late.len() - 1]), (KEPT_SAMPLES, 9_999.0));
        hub.begin(json!({}));
        hub.show(frame());
        hub.add(sample(7.0));
        assert_eq!(times(&hub.read(&mut seldom)), [7.0], "a new session begins at its start");
    }
}
