//! Controls at work: those of a script at their times, and those applied by hand.

use super::control::Control;
use super::observer::Happening;
use super::requests::Whereabouts;
use super::{Simulation, Stuck};
use crate::fleet::Fleet;
use crate::fleet::changes::{ChangePlan, Changes, WorkerChange};
use crate::router::Policy;
use crate::router::admission::{limit_of, no_gate};
use crate::settings::Invalid;
use crate::time::SimTime;
use std::collections::VecDeque;

/// Makes the policy of a name for a front end of a number.
type Policies<'a> = Box<dyn Fn(&str, usize) -> Result<Box<dyn Policy>, Invalid> + 'a>;

/// What steers a simulation.
#[derive(Default)]
pub(super) struct Steering<'a> {
    /// What will be applied, in order of time.
    script: VecDeque<(SimTime, Control)>,
    /// What was applied by hand, in order.
    applied: Vec<(SimTime, Control)>,
    /// What may take over from the running policy.
    policies: Option<Policies<'a>>,
    /// What follows from changes of workers, where none are planned.
    plan: Option<ChangePlan>,
}

impl Steering<'_> {
    /// When the script goes on.
    pub(super) fn mark(&self) -> SimTime {
        self.script.front().map_or(SimTime::MAX, |(at, _)| *at)
    }

    /// Adds `controls`, each behind those of its time.
    pub(super) fn add(&mut self, controls: impl IntoIterator<Item = (SimTime, Control)>) {
        self.script.extend(controls);
        self.script.make_contiguous().sort_by_key(|(at, _)| *at);
    }
}

impl<'a, F: Fleet> Simulation<'a, F> {
    /// Applies each of `controls` at its time, behind those of that time that were given
    /// before.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn script(mut self, controls: impl IntoIterator<Item = (SimTime, Control)>) -> Self {
        self.steering.add(controls);
        self
    }

    /// What [`Control::Policy`] may name: `build` makes the policy of a name for the
    /// front end of a number.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn policies(
        mut self,
        build: impl Fn(&str, usize) -> Result<Box<dyn Policy>, Invalid> + 'a,
    ) -> Self {
        self.steering.policies = Some(Box::new(build));
        self
    }

    /// What follows where a [`Control::Worker`] comes though nothing was planned: how
    /// long a worker loads, and what routers and clients make of a loss.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn failover(mut self, plan: ChangePlan) -> Self {
        self.steering.plan = Some(plan);
        self
    }

    /// Applies `control` now, and keeps it for [`applied`](Self::applied).
    ///
    /// # Errors
    /// If it makes no sense in this simulation at this moment; nothing has changed then.
    pub fn apply(&mut self, control: Control) -> Result<(), Invalid> {
        if self.is_over() {
            let allowed = "applied before the simulation is over";
            let at = format!("\"{}s\"", self.now.as_secs());
            return Err(Invalid::new("at", at, allowed));
        }
        if let Control::Worker(change) = &control {
            let allowed = "left out: the workers of this fleet cannot be changed";
            Invalid::unless(self.fleet.takes_changes(), "what", change.what, allowed)?;
            self.changes_mut().check(change)?;
        }
        self.put(&control)?;
        self.steering.applied.push((self.now, control));
        Ok(())
    }

    /// The controls applied by hand so far, with their times: a
    /// [script](Self::script) of them gives the same run.
    /// [`controls_toml`](super::controls_toml) writes them down.
    pub fn applied(&self) -> &[(SimTime, Control)] {
        &self.steering.applied
    }

    /// Applies what the script says for the present moment.
    pub(super) fn follow_script(&mut self) -> Result<(), Stuck> {
        while self.steering.mark() <= self.now {
            let Some((_, control)) = self.steering.script.pop_front() else { break };
            self.put(&control).map_err(|why| Stuck::Refused { at: self.now, why })?;
        }
        Ok(())
    }

    fn put(&mut self, control: &Control) -> Result<(), Invalid> {
        let now = self.now;
        match control {
            Control::Load { concurrency, cut } => {
                let follows = self.workload.set_concurrency(now, *concurrency, *cut);
                let allowed = "left out: this workload has no number of concurrent clients";
                Invalid::unless(follows, "concurrency", concurrency, allowed)?;
            }
            Control::Rate { per_s } => {
                let follows = self.workload.set_rate(now, *per_s);
                let allowed = "left out: this workload does not come by a process of arrivals, or \
                               a rate that one can have";
                Invalid::unless(follows, "rate", per_s, allowed)?;
            }
            Control::Parameter { key, value } => {
                match limit_of(key) {
                    Some(_) if self.gates.is_empty() => return Err(no_gate(key)),
                    Some(limit) => {
                        self.gates.iter_mut().try_for_each(|gate| gate.set(limit, *value))?;
                    }
                    None => {
                        for front_end in &mut self.front_ends {
                            front_end.set_parameter(key, *value)?;
                        }
                    }
                }
                self.release(now);
            }
            Control::Policy { name } => self.replace_policy(name)?,
            Control::Worker(change) => self.change_worker(change),
            Control::Feed { delay, loss_ratio } => {
                self.catch_up_kv();
                // What was published before went the old way.
                self.take_kv_events(now);
                for front_end in &mut self.front_ends {
                    front_end.set_feed(*delay, *loss_ratio);
                }
            }
            Control::Marker { .. } => {}
        }
        self.observers.tell(now, Happening::Control(control));
        Ok(())
    }

    /// All front ends run the policy `name` from now on, and know nothing.
    fn replace_policy(&mut self, name: &str) -> Result<(), Invalid> {
        let build = self.steering.policies.as_ref().ok_or_else(|| {
            Invalid::new("policy", format!("{name:?}"), "left out: no other policy is known here")
        })?;
        let policies: Result<Vec<_>, _> =
            (0..self.front_ends.len()).map(|index| build(name, index)).collect();
        let policies = policies?;
        let wants_kv_events = policies.iter().any(|policy| policy.wants_kv_events());
        if wants_kv_events && !self.fleet.publishes_kv_events() {
            let allowed = "a policy that needs no KV events: these workers publish none";
            return Err(Invalid::new("policy", format!("{name:?}"), allowed));
        }
        let all = vec![true; self.front_ends.len()];
        let held = self.requests.forget(&all);
        self.catch_up_kv();
        // No index gets what was published before.
        self.take_kv_events(self.now);
        for (front_end, policy) in self.front_ends.iter_mut().zip(policies) {
            front_end.replace_policy(self.now, policy);
        }
        self.route_again(self.now, held);
        self.let_in_soon();
        Ok(())
    }

    fn change_worker(&mut self, change: &WorkerChange) {
        let now = self.now;
        if let Some(effect) = self.changes_mut().apply(now, change) {
            self.perform(now, effect);
        }
    }

    /// What happens to workers; made where nothing was planned.
    fn changes_mut(&mut self) -> &mut Changes {
        let now = self.now;
        let Self { changes, recorder, requests, steering, front_ends, .. } = self;
        changes.get_or_insert_with(|| {
            recorder.follow_changes([]);
            let workers = u32::try_from(front_ends[0].workers().len()).expect("ids are u32");
            let plan = steering.plan.take().unwrap_or_else(|| ChangePlan::of_nothing(workers));
            let mut changes = Changes::new(plan, 0, 0);
            for live in requests.iter() {
                if let Whereabouts::AtWorker(worker) = live.whereabouts {
                    changes.sent(now, worker, live.request.id);
                }
                if let Some(worker) = live.kept_at {
                    changes.sent(now, worker, live.request.id);
                }
            }
            Box::new(changes)
        })
    }
}
