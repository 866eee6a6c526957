//! Cache changes that a worker hands over when a router asks about their blocks.
//!
//! A router asks, before each choice, for what it may see of the changes of a prompt's
//! blocks. To hand over every change of every worker each time would cost a visit to
//! each worker in each of its steps. So a worker says ahead which blocks its changes may
//! concern ([`Concerns`]): those that its sequences may fill, those that decoding may
//! displace, and those of changes that it has written down. It is visited only when one of
//! them is asked about, and what it says then is what it would have said without.

use super::core::Core;
use super::outbox::Outbox;
use super::rank::Rank;
use super::scheduler::Scheduler;
use super::worker::{State, Worker};
use crate::event::KvEvent;
use crate::id::WorkerId;
use crate::kv::{Concerns, Unheard};
use crate::request::PromptBlocks;
use crate::time::SimTime;

impl Worker {
    /// Cache changes are heard on demand from now on, [`take_kv_events`] apart; false, and
    /// nothing changes, if it shows in which order they are heard.
    ///
    /// [`take_kv_events`]: Self::take_kv_events
    pub(crate) fn begin_on_demand(&mut self) -> bool {
        self.ranks.iter_mut().all(Rank::begin_on_demand)
    }

    /// Cache changes are handed over by [`take_kv_events`](Self::take_kv_events) again.
    pub(crate) fn end_on_demand(&mut self) {
        for Rank { rules, core, .. } in &mut self.ranks {
            if let Some(rules) = rules.on_demand() {
                rules.write_all_down(core);
            }
            core.log.end_on_demand();
        }
    }

    /// Enters what the changes may concern that come or become known before the next wake.
    pub(crate) fn enter_concerns(&mut self, concerns: &mut Concerns) {
        let steps = match &self.state {
            State::Running(plan) => plan.steps.div_ceil(u64::from(self.config.block_size)),
            _ => 0,
        };
        for Rank { rules, core, .. } in &mut self.ranks {
            // Every sequence takes one block per so many steps.
            let blocks = u64::from(core.decode.len()) * steps;
            let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
            if let Some(rules) = rules.on_demand() {
                rules.enter_concerns(core, blocks, concerns);
            }
        }
    }

    /// Hands over the changes of a rank published at or before `until`, those of `prompt`
    /// included that were put off.
    pub(crate) fn take_kv_of(
        &mut self,
        until: SimTime,
        rank: usize,
        prompt: &PromptBlocks<'_>,
        out: &mut Outbox,
        sink: impl FnMut(KvEvent),
    ) {
        self.settle(until, out);
        let Rank { rules, core, .. } = &mut self.ranks[rank];
        if let Some(rules) = rules.on_demand() {
            rules.write_down(core, prompt.content(), prompt.len());
        }
        core.log.take_unheard(until, sink);
    }

    /// The ranks that have more than `remembered` to remember until a router asks.
    pub(crate) fn full_of_unheard(
        &mut self,
        remembered: usize,
    ) -> impl Iterator<Item = WorkerId> + use<'_> {
        self.ranks.iter_mut().filter_map(move |Rank { id, core, .. }| {
            let unheard = core.log.unheard().map_or(0, |unheard| unheard.len());
            (unheard > remembered).then_some(*id)
        })
    }
}

impl Rank {
    fn begin_on_demand(&mut self) -> bool {
        let Core { seqs, decode, config, .. } = &self.core;
        let mut unheard = Unheard::new(self.id, decode.step());
        let fills = seqs.ids().flat_map(|id| seqs[id].fills(config.block_size));
        fills.for_each(|run| unheard.came(run));
        self.rules.on_demand().is_some() && self.core.log.begin_on_demand(unheard)
    }
}
