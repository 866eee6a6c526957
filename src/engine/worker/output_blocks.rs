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
        let taking = self.core.decode.step() - ahead;
        if out.output_tokens {
            self.core
                .decode
                .members()
                .for_each(|&member| self.announce_member(now, member, taking, out));
        } else if out.output_blocks {
            // A sequence takes a block in the step after its token needs one.
            let takers = self.core.decode.takers(taking).iter();
            takers.for_each(|&member| self.announce_member(now, member, taking, out));
        } else {
            return;
        }
        // With overlap the step of a last token may run already: the one before is due.
        for &id in self.in_flight.iter().flat_map(|results| &results.ended) {
            self.announce_token(now, id, self.core.seqs[id].generated - 1, out);
        }
    }

    /// Says so of the token that a member computed in the step before `taking`.
    fn announce_member(
        &self,
        now: SimTime,
        Member { id, .. }: Member,
        taking: u64,
        out: &mut Outbox,
    ) {
        let seq = &self.core.seqs[id];
        let Some(from) = seq.decode_from.filter(|&from| from < taking) else { return };
        let decoded = u32::try_from(taking - from).expect("fewer than 2^32 tokens");
        self.announce_token(now, id, seq.generated + decoded, out);
    }

    /// Says so if token `number` of a sequence, due at `now`, is the first of a block.
    pub(super) fn announce_token(&self, now: SimTime, id: SeqId, number: u32, out: &mut Outbox) {
        let seq = &self.core.seqs[id];
        let before = seq.prompt_tokens + number.saturating_sub(1);
        let between = number > 1 && number < seq.output_tokens;
        let begins = out.output_blocks && before.is_multiple_of(self.core.config.block_size);
        if between && (begins || out.output_tokens) {
            self.tell(now, id, WorkerEventKind::OutputBlock { output_tokens: number }, out);
        }
    }
}
