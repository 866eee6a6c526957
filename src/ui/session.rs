//! The arms of a session in lock step of simulated time. No clock of the wall is here:
//! the pieces in which its time passes do not change it.

use super::arm::{Arm, ArmView, Values};
use super::plan::{LONGEST, LoadKind, Move, Plan};
use super::servers::Servers;
use crate::experiment::hex;
use crate::exposition::Families;
use crate::fleet::changes::WorkerChange;
use crate::settings::Invalid;
use crate::simulation::Control;
use crate::time::{SimDuration, SimTime};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// More moves than this are refused (assumed: an hour at a slider that says ten a second
/// has 36,000).
const MOST_MOVES: usize = 50_000;

/// The values of all arms at one moment.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// Seconds.
    pub(super) t: f64,
    pub(super) arms: Vec<Values>,
}

/// See the [module](self).
pub(super) struct Session {
    pub(super) plan: Plan,
    /// Those with simulated workers.
    pub(super) arms: Vec<Arm>,
    /// One more, of real servers.
    pub(super) servers: Option<Servers>,
    pub(super) seed: u64,
    now: SimTime,
    window: SimDuration,
    moves: Vec<Move>,
    /// What will be applied, in order of time.
    pending: VecDeque<Move>,
    /// Why it cannot go on, once it cannot.
    end: Option<String>,
    /// Why it cannot be saved, once it cannot.
    unsaved: Option<Invalid>,
}

impl Session {
    pub(super) fn new(plan: Plan, seed: u64, window: SimDuration) -> Self {
        let arms = plan.arms.iter().map(|arm| Arm::simulated(&arm.run, seed, window)).collect();
        let (moves, pending) = (Vec::new(), VecDeque::new());
        Self {
            plan,
            arms,
            servers: None,
            seed,
            now: SimTime::ZERO,
            window,
            moves,
            pending,
            end: None,
            unsaved: None,
        }
    }

    pub(super) fn now(&self) -> SimTime {
        self.now
    }

    pub(super) fn window(&self) -> SimDuration {
        self.window
    }

    pub(super) fn moves(&self) -> &[Move] {
        &self.moves
    }

    pub(super) fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// Moves that are to come.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Applies each of `moves`, in order of time, when it is its time.
    pub(super) fn follow(&mut self, moves: impl IntoIterator<Item = Move>) {
        self.pending.extend(moves);
        self.pending.make_contiguous().sort_by_key(|step| step.at);
    }

    /// Forgets what was to come.
    pub(super) fn follow_no_more(&mut self) {
        self.pending.clear();
    }

    /// Puts time in, up to `until`.
    pub(super) fn advance(&mut self, until: SimTime) {
        // The run of the experiment would be over a second later.
        let last = SimTime::from_ps(LONGEST.as_ps() - SimDuration::from_secs(1).as_ps());
        let until = until.min(last);
        while self.end.is_none() {
            let next = self.pending.front().map_or(SimTime::MAX, |step| step.at.max(self.now));
            self.run_to(next.min(until));
            if next > until || self.end.is_some() {
                break;
            }
            if let Some(Move { arm, control, .. }) = self.pending.pop_front() {
                // One that makes no sense by now, as a crash of a worker that is down, is
                // left out, and so is not written down.
                let _ = self.apply(arm, &control);
            }
        }
        if self.now >= last {
            self.end.get_or_insert_with(|| "100 days are the longest session".to_owned());
        }
    }

    fn run_to(&mut self, until: SimTime) {
        if until <= self.now {
            return;
        }
        let mut is_over = true;
        for (arm, plan) in self.arms.iter_mut().zip(&self.plan.arms) {
            match arm.advance(until) {
                Ok(progress) => is_over &= progress.is_over,
                Err(stuck) => self.end = Some(format!("{}: {stuck}", plan.name)),
            }
        }
        self.now = until;
        if let Some(end) = self.servers.as_ref().and_then(Servers::end) {
            self.end = Some(end);
        }
        if is_over {
            self.end.get_or_insert_with(|| "all requests of the workload are served".to_owned());
        }
    }

    /// The number of arms, real servers included.
    pub(super) fn all_arms(&self) -> usize {
        self.arms.len() + usize::from(self.servers.is_some())
    }

    /// The name of an arm.
    pub(super) fn name(&self, arm: usize) -> String {
        let plans = &self.plan.arms;
        plans
            .get(arm)
            .map_or_else(|| format!("{}, servers", plans[0].name), |plan| plan.name.clone())
    }

    /// Refuses the number of an arm that is not there.
    pub(super) fn check_arm(&self, arm: usize) -> Result<(), Invalid> {
        let all = self.all_arms();
        Invalid::unless(arm < all, "arm", arm, &format!("from 0 to {}", all - 1))
    }

    /// Applies `control` now, to one arm or to all; gives what each arm that refuses it
    /// says.
    ///
    /// # Errors
    /// If no arm takes it.
    pub(super) fn apply(
        &mut self,
        arm: Option<usize>,
        control: &Control,
    ) -> Result<Vec<(usize, Invalid)>, Invalid> {
        let (simulated, all) = (self.arms.len(), self.all_arms());
        if let Some(arm) = arm {
            self.check_arm(arm)?;
            if arm < simulated {
                self.plan.check_alone(arm)?;
            }
        }
        let allowed = "fewer moves in one session: save it, and restart";
        Invalid::unless(self.moves.len() < MOST_MOVES, "control", self.moves.len(), allowed)?;
        let wanted = arm.map_or(0..all, |arm| arm..arm + 1);
        let mut refused = Vec::new();
        let mut taken = Vec::new();
        for at in wanted.clone() {
            let done = match (self.arms.get_mut(at), &self.servers) {
                (Some(arm), _) => arm.apply(self.now, control),
                (None, Some(servers)) => servers.apply(control),
                (None, None) => unreachable!("arms were counted"),
            };
            match done {
                Ok(()) => taken.push(at),
                Err(why) => refused.push((at, why)),
            }
        }
        let moved = |arm| Move { at: self.now, arm, control: control.clone() };
        // What real servers are beside is what a file is about.
        let simulations = taken.iter().copied().filter(|at| *at < simulated);
        if simulations.clone().count() == simulated {
            self.moves.push(moved(None));
        } else {
            // A file could not say which arms these are.
            let unsaved = simulations.clone().find_map(|at| self.plan.check_alone(at).err());
            self.unsaved = self.unsaved.take().or(unsaved);
            self.moves.extend(taken.iter().map(|at| moved(Some(*at))));
        }
        if taken.is_empty() { Err(refused.remove(0).1) } else { Ok(refused) }
    }

    /// What is shown of the time before covers `over`, from now on.
    pub(super) fn set_window(&mut self, over: SimDuration) {
        self.window = over;
        for arm in &mut self.arms {
            arm.simulation.watch(over);
        }
        if let Some(servers) = &self.servers {
            servers.watch(over);
        }
    }

    /// A point of every arm's lines.
    pub(super) fn sample(&mut self) -> Sample {
        let servers = self.servers.as_ref().map(Servers::values);
        let arms = self.arms.iter_mut().map(Arm::values).chain(servers).collect();
        Sample { t: self.now.as_secs(), arms }
    }

    /// What all arms show now beside their lines.
    pub(super) fn views(&mut self) -> Vec<ArmView> {
        let servers = self.servers.as_ref().map(Servers::view);
        self.arms.iter_mut().map(Arm::view).chain(servers).collect()
    }

    /// The digest of the experiment that [`saved`](Self::saved) gives.
    pub(super) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for arm in &self.arms {
            digest.update(arm.simulation.digest());
        }
        hex(&digest.finalize())
    }

    /// By arm.
    pub(super) fn digests(&self) -> Vec<String> {
        self.arms.iter().map(|arm| hex(&arm.simulation.digest())).collect()
    }

    /// The session so far as the text of an experiment. A move of this very moment would
    /// come when the experiment is over, so a millisecond more is simulated then.
    ///
    /// # Errors
    /// If a file could not say it.
    pub(super) fn saved(&mut self) -> Result<String, Invalid> {
        if let Some(unsaved) = &self.unsaved {
            return Err(unsaved.clone());
        }
        let is_fresh = self.moves.last().is_some_and(|last| last.at >= self.now);
        if (is_fresh || self.now == SimTime::ZERO) && self.end.is_none() {
            self.run_to(self.now + SimDuration::from_millis(1));
        }
        let simulated = self.arms.len();
        let moves = self.moves.iter().filter(|step| step.arm.is_none_or(|arm| arm < simulated));
        let text = self.plan.saved(self.seed, self.now, &moves.cloned().collect::<Vec<Move>>());
        Ok(format!("{}\n{text}", self.plan.head(&self.digest())))
    }

    /// The moves of a preset, from now on.
    pub(super) fn preset(&self, name: &str) -> Option<Vec<Move>> {
        let now = self.now;
        let later = |seconds: u64, control: Control| Move {
            at: now + SimDuration::from_secs(seconds),
            arm: None,
            control,
        };
        let note =
            |seconds: u64, note: &str| later(seconds, Control::Marker { note: note.to_owned() });
        match name {
            "crossover" => {
                let loads = self.plan.loads.iter().filter_map(|load| self.plan.control_of(*load));
                let steps = (0..).map(|step| step * 120).zip(loads);
                let mut moves = vec![note(0, "crossover")];
                moves.extend(steps.map(|(at, control)| later(at, control)));
                (moves.len() > 1).then_some(moves)
            }
            "burst" => {
                let load = self.arms[0].load;
                let high = self.plan.control_of(self.plan.round(load * 1.5))?;
                let back = self.plan.control_of(load)?;
                Some(vec![
                    note(0, "burst"),
                    later(0, high),
                    note(60, "end of burst"),
                    later(60, back),
                ])
            }
            "worker-dies" => {
                let crash = WorkerChange {
                    restart_after: Some(SimDuration::from_secs(120)),
                    ..WorkerChange::crash(0)
                };
                Some(vec![note(0, "a worker dies"), later(0, Control::Worker(crash))])
            }
            _ => None,
        }
    }

    /// What Prometheus reads; every sample has its arm as a label.
    pub(super) fn metrics(&mut self) -> String {
        let mut families = Families::default();
        for (arm, plan) in self.arms.iter_mut().zip(&self.plan.arms) {
            arm.export(&plan.name, &mut families);
        }
        if let Some(servers) = &self.servers {
            families = servers.export(&self.name(self.arms.len()), families);
        }
        families.text()
    }
}

/// As the page knows it.
pub(super) fn kind_name(kind: LoadKind) -> &'static str {
    match kind {
        LoadKind::Concurrency => "concurrency",
        LoadKind::Rate => "rate",
        LoadKind::Fixed => "fixed",
    }
}
