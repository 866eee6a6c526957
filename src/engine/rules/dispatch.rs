//! The scheduler of a worker, whichever engine's.

use super::Rules;
use super::trtllm::TrtllmScheduler;
use super::vllm::VllmScheduler;
use crate::engine::config::EngineConfig;
use crate::engine::core::Core;
use crate::engine::decode_set::DecodeSet;
use crate::engine::scheduler::{BatchAndQueue, Handover, OnDemand, Scheduler};
use crate::engine::seq::{Seq, SeqId};
use crate::engine::step::{ChunkEnd, FormedStep};
use crate::kv::BlockCount;
use crate::request::Content;
use std::ops::Range;

macro_rules! schedulers {
    ($dollar:tt $($(#[$doc:meta])* $name:ident = $folder:ident($options:ident, $scheduler:ident),)*) => {
        /// A scheduler of any engine.
        #[derive(Debug)]
        pub(in crate::engine) enum AnyScheduler {
            $($(#[$doc])* $name($scheduler),)*
        }

        impl AnyScheduler {
            /// With nothing in queue, batch and cache.
            pub(in crate::engine) fn new(config: &EngineConfig) -> Self {
                match config.rules {
                    $(Rules::$name(options) => Self::$name($scheduler::new(options, config)),)*
                }
            }
        }

        /// Evaluates an expression with the scheduler that `$any` holds.
        macro_rules! each {
            ($dollar any:expr, $dollar rules:ident => $dollar call:expr) => {
                match $dollar any {
                    $(AnyScheduler::$name($dollar rules) => $dollar call,)*
                }
            };
        }
    };
}

engines!(schedulers $);

impl Scheduler for AnyScheduler {
    fn longest_output(&self, seq: &Seq) -> u32 {
        each!(self, rules => rules.longest_output(seq))
    }

    fn submit(&mut self, core: &Core, id: SeqId) {
        each!(self, rules => rules.submit(core, id));
    }

    fn offer(&mut self, core: &mut Core, from_idle: bool) -> u32 {
        each!(self, rules => rules.offer(core, from_idle))
    }

    fn hold_back(&mut self) {
        each!(self, rules => rules.hold_back());
    }

    fn form(&mut self, core: &mut Core, step: &mut FormedStep) {
        each!(self, rules => rules.form(core, step));
    }

    fn computed(&mut self, core: &mut Core, chunks: &[(SeqId, ChunkEnd)]) {
        each!(self, rules => rules.computed(core, chunks));
    }

    fn end(&mut self, core: &mut Core, id: SeqId) {
        each!(self, rules => rules.end(core, id));
    }

    fn abort(&mut self, core: &mut Core, id: SeqId, first: bool) -> bool {
        each!(self, rules => rules.abort(core, id, first))
    }

    fn decode_blocks(&mut self, core: &mut Core, step: u64) {
        each!(self, rules => rules.decode_blocks(core, step));
    }

    fn quiet_until(&self, core: &Core, step: u64, end: u64) -> u64 {
        each!(self, rules => rules.quiet_until(core, step, end))
    }

    fn take_blocks(&mut self, core: &mut Core, blocks: u32, steps: Range<u64>) {
        each!(self, rules => rules.take_blocks(core, blocks, steps));
    }

    fn next_traffic(&self, decode: &DecodeSet, step: u64) -> u64 {
        each!(self, rules => rules.next_traffic(decode, step))
    }

    fn undisturbed_steps(&self, core: &Core, max: u64) -> u64 {
        each!(self, rules => rules.undisturbed_steps(core, max))
    }

    fn running(&self, core: &Core) -> usize {
        each!(self, rules => rules.running(core))
    }

    fn waiting(&self, core: &Core) -> usize {
        each!(self, rules => rules.waiting(core))
    }

    fn requests(&self, core: &Core) -> BatchAndQueue {
        each!(self, rules => rules.requests(core))
    }

    fn present_blocks(&self, core: &Core, content: &Content, limit: u32) -> u32 {
        each!(self, rules => rules.present_blocks(core, content, limit))
    }

    fn used_blocks(&self) -> u32 {
        each!(self, rules => rules.used_blocks())
    }

    fn count_blocks(&self, core: &Core) -> BlockCount {
        each!(self, rules => rules.count_blocks(core))
    }

    fn reset_cache(&mut self) -> bool {
        each!(self, rules => rules.reset_cache())
    }

    fn handover(&mut self) -> Option<&mut dyn Handover> {
        each!(self, rules => rules.handover())
    }

    fn on_demand(&mut self) -> Option<&mut dyn OnDemand> {
        each!(self, rules => rules.on_demand())
    }

    fn waits_for_others(&self) -> bool {
        each!(self, rules => rules.waits_for_others())
    }
}
