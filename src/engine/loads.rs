//! Loads of KV from the tiers below GPU memory: whether one is worth it, and when it
//! is done. [`tiers`](super::tiers) has the settings.

use super::core::Core;
use super::seq::{Loaded, SeqId};
use super::step::FormedStep;
use super::tiers::LoadRule;
use crate::kv::TierRun;

/// What of a prompt is to be loaded.
#[derive(Debug)]
pub(super) struct Load {
    pieces: Vec<TierRun>,
    /// All of them.
    pub(super) blocks: u32,
}

impl Core {
    /// What sequence `id` should have loaded, of which GPU memory holds the first
    /// `cached_blocks`, while `step` is being formed.
    pub(super) fn plan_load(
        &self,
        id: SeqId,
        cached_blocks: u32,
        step: &FormedStep,
    ) -> Option<Load> {
        let tiers = self.log.tiers()?;
        let rule = self.config.tiers.load;
        let seq = &self.seqs[id];
        let limit = (seq.target_tokens() - 1) / self.config.block_size;
        if rule == LoadRule::Never || cached_blocks >= limit {
            return None;
        }
        let mut pieces = tiers.find(&seq.content, cached_blocks, limit);
        if rule == LoadRule::Auto && !pieces.is_empty() {
            let target = seq.target_tokens();
            let ahead = step.chunks.iter().map(|(_, chunk)| chunk.new_tokens).sum();
            let ahead = self.prompt_time(0, ahead);
            let compute = |blocks| self.prompt_time(blocks * self.config.block_size, target);
            let (mut best, mut blocks) = (0, cached_blocks);
            let mut soonest = ahead + compute(blocks);
            for n in 1..=pieces.len() {
                blocks += pieces[n - 1].blocks;
                let load = tiers.done(&pieces[..n]) - self.now;
                let time = load.max(ahead) + compute(blocks);
                if time <= soonest {
                    (soonest, best) = (time, n);
                }
            }
            pieces.truncate(best);
        }
        let blocks = pieces.iter().map(|piece| piece.blocks).sum();
        (blocks > 0).then_some(Load { pieces, blocks })
    }

    /// Begins a load for sequence `id`; true if it takes time.
    pub(super) fn begin_load(&mut self, id: SeqId, load: &Load) -> bool {
        let (now, block_size) = (self.now, self.config.block_size);
        let tiers = self.log.tiers_mut().expect("a load comes from a tier");
        let seq = &mut self.seqs[id];
        let tokens = tiers.tokens(&load.pieces, block_size);
        let done = tiers.load(&seq.content, &load.pieces);
        seq.loaded = Some(Loaded { tokens, time: done - now });
        seq.loading = done > now;
        if seq.loading {
            self.loads.insert((done, id));
        }
        seq.loading
    }

    /// Takes the sequences whose loads are done, in order of their requests.
    pub(super) fn take_loaded(&mut self) -> Vec<SeqId> {
        let mut done = Vec::new();
        while let Some(&(at, id)) = self.loads.first().filter(|(at, _)| *at <= self.now) {
            self.loads.remove(&(at, id));
            self.seqs[id].loading = false;
            done.push(id);
        }
        done.sort_unstable_by_key(|&id| self.seqs[id].request);
        done
    }
}
