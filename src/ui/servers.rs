//! An arm of real servers: a simulation whose workers are vLLM over HTTP. It lives on the
//! clock of the wall, on a thread of its own, so that requests go out at their time whatever
//! the page is doing.

use super::arm::{Arm, ArmView, SERIES, Values};
use super::error::UiError;
use crate::experiment::{RunSpec, Settings, front_ends, steerable_fleet};
use crate::exposition::Families;
use crate::fleet::servers::LiveFleet;
use crate::live::{LiveOptions, check, connect, direct};
use crate::settings::Invalid;
use crate::simulation::Control;
use crate::time::SimDuration;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Time is put in by pieces of this; between two of them asks are heard.
const PIECE: SimDuration = SimDuration::from_millis(20);

/// What is shown is taken no more often.
const BETWEEN_LOOKS: SimDuration = SimDuration::from_millis(100);

/// Why the page cannot do to real servers what it can do to simulated ones.
pub(super) mod why {
    pub(in super::super) const TIME: &str =
        "real servers live in real time, which can be neither stopped, stepped nor turned back";
    pub(in super::super) const WORKERS: &str =
        "real servers are started and stopped where they run, not from here";
    pub(in super::super) const FEED: &str =
        "KV events of real servers take their own time over their own wires";
    pub(in super::super) const REPLAY: &str =
        "what real servers did cannot be done again: save the simulation beside them";
}

/// Something to be done to the arm between two pieces of time.
type Ask = Box<dyn FnOnce(&mut Arm<LiveFleet>) + Send>;

/// The way to the arm, and what it showed last.
pub(super) struct Servers {
    asks: Sender<Ask>,
    last: Arc<Mutex<Last>>,
}

#[derive(Debug)]
struct Last {
    values: Values,
    view: ArmView,
    end: Option<String>,
}

impl Last {
    fn of(arm: &mut Arm<LiveFleet>, end: Option<String>) -> Self {
        let mut values = arm.values();
        // Servers do not say when they schedule a request.
        for (value, name) in values.iter_mut().zip(SERIES) {
            *value = value.filter(|_| !name.starts_with("queue_"));
        }
        Self { values, view: arm.view().without_queues(), end }
    }
}

impl Servers {
    /// Checks the servers of `options` and begins to send them the requests of `run`.
    ///
    /// # Errors
    /// If they cannot be used.
    pub(super) fn begin(
        run: RunSpec,
        seed: u64,
        window: SimDuration,
        options: LiveOptions,
    ) -> Result<Self, UiError> {
        check(&run.settings, &options)?;
        let (asks, heard) = channel();
        let (ready, begun) = channel();
        let work = move || {
            // Policies need not be Send, so the thread makes its own.
            let mut arm = match connected(&run, seed, window, &options) {
                Ok(arm) => arm,
                Err(wrong) => return drop(ready.send(Err(wrong))),
            };
            let last = Arc::new(Mutex::new(Last::of(&mut arm, None)));
            if ready.send(Ok(Arc::clone(&last))).is_ok() {
                arm.simulation.fleet_mut().start();
                drive(&mut arm, &heard, &last);
            }
        };
        let thread = std::thread::Builder::new().name("sim-servers".to_owned());
        let started = thread.spawn(work);
        started.map_err(|error| UiError::Start(error.to_string()))?;
        let gone = |_| UiError::Start("the thread of the servers ended".to_owned());
        Ok(Self { asks, last: begun.recv().map_err(gone)?? })
    }

    /// What the arm answers to `ask`; `None` where it has ended.
    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Arm<LiveFleet>) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, heard) = channel();
        let ask = move |arm: &mut Arm<LiveFleet>| drop(answer.send(ask(arm)));
        self.asks.send(Box::new(ask)).ok()?;
        heard.recv().ok()
    }

    /// Applies `control` now.
    pub(super) fn apply(&self, control: &Control) -> Result<(), Invalid> {
        match control {
            Control::Worker(change) => {
                return Err(Invalid::new(
                    "what",
                    change.what,
                    format!("left out: {}", why::WORKERS),
                ));
            }
            Control::Feed { delay, loss_ratio } => {
                let (key, value) = match (delay, loss_ratio) {
                    (Some(delay), _) => ("delay", format!("\"{}ms\"", delay.as_millis())),
                    (None, loss) => ("loss_ratio", loss.unwrap_or_default().to_string()),
                };
                return Err(Invalid::new(key, value, format!("left out: {}", why::FEED)));
            }
            _ => {}
        }
        let control = control.clone();
        let done = self.ask(move |arm| arm.apply(arm.simulation.now(), &control));
        let over = || Invalid::new("control", "given", "applied before the servers' arm has ended");
        done.unwrap_or_else(|| Err(over()))
    }

    pub(super) fn watch(&self, over: SimDuration) {
        let _ = self.ask(move |arm| arm.simulation.watch(over));
    }

    pub(super) fn values(&self) -> Values {
        self.last(|last| last.values)
    }

    pub(super) fn view(&self) -> ArmView {
        self.last(|last| last.view.clone())
    }

    /// Why it cannot go on, once it cannot.
    pub(super) fn end(&self) -> Option<String> {
        self.last(|last| last.end.clone())
    }

    /// `families` with what Prometheus reads of the arm.
    pub(super) fn export(&self, name: &str, mut families: Families) -> Families {
        let name = name.to_owned();
        let exported = self.ask(move |arm| {
            arm.export_router(&name, &mut families);
            families
        });
        exported.unwrap_or_default()
    }

    fn last<T>(&self, see: impl FnOnce(&Last) -> T) -> T {
        see(&self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An arm whose servers are checked and empty.
fn connected(
    run: &RunSpec,
    seed: u64,
    window: SimDuration,
    options: &LiveOptions,
) -> Result<Arm<LiveFleet>, UiError> {
    let settings: Settings = direct(&run.settings);
    let ends = front_ends(&settings, seed, |policy| policy);
    let text_key = options.servers.text_key.wrapping_add(seed);
    let fleet = connect(&settings, text_key, options, &ends)?;
    // Real requests take their own time on their way.
    let (source, _) = settings.source.without_client(run.levels[0]);
    let workload = source.build(settings.pools.block_size(), seed);
    let simulation = steerable_fleet(&settings, &run.levels, (fleet, workload, ends), seed);
    Ok(Arm::new(&RunSpec { settings, ..run.clone() }, simulation, window))
}

/// Puts time in as it passes, until no one is left who could ask.
fn drive(arm: &mut Arm<LiveFleet>, asks: &Receiver<Ask>, last: &Mutex<Last>) {
    let mut looked = arm.simulation.now();
    let mut is_over = false;
    loop {
        let ask = match is_over {
            true => asks.recv().map_err(|_| TryRecvError::Disconnected),
            false => asks.try_recv(),
        };
        match ask {
            Ok(ask) => {
                ask(arm);
                continue;
            }
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {}
        }
        // It waits for the clock of the wall.
        let end = match arm.simulation.advance(arm.simulation.now() + PIECE) {
            Ok(progress) if progress.is_over => {
                Some("servers: all requests of the workload are served".to_owned())
            }
            Ok(_) => None,
            Err(stuck) => Some(format!("servers: {stuck}")),
        };
        is_over = end.is_some();
        let now = arm.simulation.now();
        if is_over || now >= looked + BETWEEN_LOOKS {
            looked = now;
            let seen = Last::of(arm, end);
            *last.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        }
    }
}
