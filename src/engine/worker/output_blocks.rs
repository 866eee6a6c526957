//! Which tokens begin a block of output, for routers that count generated blocks.

use super::Worker;
use crate::engine::decode_set::Member;
use crate::engine::outbox::Outbox;
use crate::engine::seq::SeqId;
use crate::event::WorkerEventKind;
use crate::time::SimTime;

impl Worker {
    /// Says whose decoded token, due at `now`, is the first of a block. `ahead`
    /// steps were formed after the one that computed it.
    pub(super) fn announce_output_blocks(&self, now: SimTime, ahead: u64, out: &mut Outbox) {
        if !out.output_blocks {
            return;
        }
        // A sequence takes a block in the step after its token needs one.
        let taking = self.core.decode.step() - ahead;
        for &Member { id, .. } in self.core.decode.takers(taking) {
            let seq = &self.core.seqs[id];
            let Some(from) = seq.decode_from.filter(|&from| from < taking) else { continue };
            let decoded = u32::try_from(taking - from).expect("fewer than 2^32 tokens");
            self.announce_token(now, id, seq.generated + decoded, out);
        }
        // With overlap the step of a last token may run already: the one before is due.
        for &id in self.in_flight.iter().flat_map(|results| &results.ended) {
            self.announce_token(now, id, self.core.seqs[id].generated - 1, out);
        }
    }

    /// Says so if token `number` of a sequence, due at `now`, is the first of a block.
    pub(super) fn announce_token(&self, now: SimTime, id: SeqId, number: u32, out: &mut Outbox) {
        let seq = &self.core.seqs[id];
        let before = seq.prompt_tokens + number.saturating_sub(1);
        let between = number > 1 && number < seq.output_tokens;
        if out.output_blocks && between && before.is_multiple_of(self.core.config.block_size) {
            self.tell(now, id, WorkerEventKind::OutputBlock { output_tokens: number }, out);
        }
    }
}
