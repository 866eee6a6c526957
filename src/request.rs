//! Requests: what the workload knows, and the part of it that a router may see.

use crate::id::{BlockId, ConversationId, RequestId};
use smallvec::SmallVec;

/// Consecutive block ids `first, first + 1, ...`, in the order of their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// Id of the first block.
    pub first: BlockId,
    /// Number of blocks; at least 1 wherever a run is stored.
    pub len: u32,
}

impl BlockRun {
    /// What comes after its first `blocks` blocks; it has at least as many.
    pub fn skip(self, blocks: u32) -> Self {
        Self { first: self.first.offset(blocks), len: self.len - blocks }
    }

    /// Its ids, in order.
    pub fn ids(self) -> impl Iterator<Item = BlockId> {
        (0..self.len).map(move |i| self.first.offset(i))
    }
}

/// The identity of every full block of a token sequence: a list of runs that it
/// may share with other sequences, then an endless private run that holds the
/// rest of the prompt and the generated tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    shared: SmallVec<[BlockRun; 4]>,
    shared_blocks: u32,
    private: BlockId,
    fork_tokens: u32,
}

impl Content {
    /// A sequence that begins with `shared` and goes on with the ids from `private`,
    /// which must not continue the last of `shared`.
    pub fn new(shared: impl IntoIterator<Item = BlockRun>, private: BlockId) -> Self {
        let mut runs = SmallVec::<[BlockRun; 4]>::new();
        for run in shared.into_iter().filter(|run| run.len > 0) {
            match runs.last_mut() {
                Some(last) if last.first.offset(last.len) == run.first => last.len += run.len,
                _ => runs.push(run),
            }
        }
        debug_assert!(runs.last().is_none_or(|last| last.first.offset(last.len) != private));
        let shared_blocks = runs.iter().map(|run| run.len).sum();
        Self { shared: runs, shared_blocks, private, fork_tokens: 0 }
    }

    /// States that the first `tokens` tokens of the first private block are
    /// common to every sequence with the same shared part (a shared text that
    /// ends inside a block). Only token-granular reuse looks at it.
    pub fn with_fork_tokens(mut self, tokens: u32) -> Self {
        self.fork_tokens = tokens;
        self
    }

    /// Number of blocks in the shared part.
    pub fn shared_blocks(&self) -> u32 {
        self.shared_blocks
    }

    /// See [`with_fork_tokens`](Self::with_fork_tokens); 0 unless stated.
    pub fn fork_tokens(&self) -> u32 {
        self.fork_tokens
    }

    /// Id of the block at `index`, counted from the start of the sequence.
    pub fn block(&self, index: u32) -> BlockId {
        if index >= self.shared_blocks {
            return self.private.offset(index - self.shared_blocks);
        }
        let mut rest = index;
        for run in &self.shared {
            if rest < run.len {
                return run.first.offset(rest);
            }
            rest -= run.len;
        }
        unreachable!("block {index} of {} shared blocks", self.shared_blocks)
    }

    /// The first `blocks` blocks as runs, in order; each as long as possible.
    pub fn runs(&self, blocks: u32) -> impl Iterator<Item = BlockRun> + '_ {
        self.range(0, blocks)
    }

    /// The blocks from `from` up to `to` (not included) as runs, in order; each
    /// as long as possible.
    pub fn range(&self, from: u32, to: u32) -> impl Iterator<Item = BlockRun> + '_ {
        // Most of the time only private blocks are asked for.
        let (shared, first) = if from < self.shared_blocks {
            (&self.shared[..], self.private)
        } else {
            (&[][..], self.private.offset(from - self.shared_blocks))
        };
        let mut skip = if shared.is_empty() { 0 } else { from };
        let mut left = to.saturating_sub(from);
        let private = BlockRun { first, len: u32::MAX };
        shared.iter().copied().chain([private]).filter_map(move |run| {
            let skipped = skip.min(run.len);
            skip -= skipped;
            let len = (run.len - skipped).min(left);
            left -= len;
            (len > 0).then_some(BlockRun { first: run.first.offset(skipped), len })
        })
    }

    /// The first `blocks` block ids, in order.
    pub fn blocks(&self, blocks: u32) -> impl Iterator<Item = BlockId> + '_ {
        self.runs(blocks).flat_map(BlockRun::ids)
    }
}

/// What a worker does of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// All of it.
    #[default]
    Whole,
    /// Its prompt; then it keeps the KV for another worker.
    Prefill,
    /// Its output; the KV of its prompt comes from another worker.
    Decode,
}

/// One request with everything the simulation knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// Its number.
    pub id: RequestId,
    /// The conversation it belongs to.
    pub conversation: ConversationId,
    /// Its turn in that conversation, from 0.
    pub turn: u32,
    /// Prompt length in tokens; at least 1.
    pub prompt_tokens: u32,
    /// Tokens the model will generate; at least 1. No router may see this.
    pub output_tokens: u32,
    /// The client's `max_tokens`, which an engine may reserve memory for; at
    /// least `output_tokens`.
    pub max_tokens: u32,
    /// Its rank among the requests of a worker that schedules by priority, as vLLM has it:
    /// lower ones come first. 0 unless given.
    pub priority: i32,
    /// Identity of the blocks of prompt and output.
    pub content: Content,
}

impl Request {
    /// A single request: a conversation of one turn, whose `max_tokens` is what the
    /// model will generate. `content` names the blocks of prompt and output.
    pub fn new(id: RequestId, prompt_tokens: u32, output_tokens: u32, content: Content) -> Self {
        Self {
            id,
            conversation: ConversationId(id.0),
            turn: 0,
            prompt_tokens,
            output_tokens,
            max_tokens: output_tokens,
            priority: 0,
            content,
        }
    }

    /// The same with another `content`.
    pub fn with_content(self, content: Content) -> Self {
        Self { content, ..self }
    }

    /// The same with another number.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn numbered(self, id: RequestId) -> Self {
        Self { id, ..self }
    }

    /// What a router is given.
    pub fn route_view(&self, block_size: u32) -> RouteRequest<'_> {
        RouteRequest {
            id: self.id,
            conversation: self.conversation,
            prompt_tokens: self.prompt_tokens,
            blocks: PromptBlocks { content: &self.content, len: self.prompt_tokens / block_size },
            prefilled: false,
        }
    }
}

/// What a router may see of a request: no output length, because no real router
/// has one.
///
/// ```compile_fail
/// # fn f(request: &kv_router_sim::request::RouteRequest<'_>) -> u32 {
/// request.output_tokens
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RouteRequest<'a> {
    /// Its number.
    pub id: RequestId,
    /// The session that the client names, for affinity policies.
    pub conversation: ConversationId,
    /// Prompt length in tokens.
    pub prompt_tokens: u32,
    /// The prompt's full blocks.
    pub blocks: PromptBlocks<'a>,
    /// Its prompt has been computed elsewhere: it goes to a worker that decodes.
    /// False unless prefill and decode have workers of their own.
    pub prefilled: bool,
}

/// The full blocks of a prompt; the partial last block is left out, as routers
/// hash full blocks only.
#[derive(Clone, Copy, Debug)]
pub struct PromptBlocks<'a> {
    content: &'a Content,
    len: u32,
}

impl<'a> PromptBlocks<'a> {
    /// The sequence that they begin.
    pub(crate) fn content(&self) -> &'a Content {
        self.content
    }

    /// Number of full blocks.
    pub fn len(&self) -> u32 {
        self.len
    }
    /// True if the prompt is shorter than one block.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Id of the block at `index < len`.
    pub fn get(&self, index: u32) -> BlockId {
        assert!(index < self.len, "block {index} of {}", self.len);
        self.content.block(index)
    }
    /// All blocks as runs of consecutive ids.
    pub fn runs(&self) -> impl Iterator<Item = BlockRun> + 'a {
        self.content.runs(self.len)
    }
    /// All block ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = BlockId> + 'a {
        self.content.blocks(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_indexes_and_runs_agree() {
        let run = |first, len| BlockRun { first: BlockId(first), len };
        let content = Content::new([run(10, 3), run(40, 2)], BlockId(100));
        let ids: Vec<u64> = content.blocks(8).map(|b| b.0).collect();
        assert_eq!(ids, [10, 11, 12, 40, 41, 100, 101, 102]);
        for (i, id) in (0..).zip(&ids) {
            assert_eq!(content.block(i).0, *id);
        }
        let range = |from, to| content.range(from, to).collect::<Vec<_>>();
        assert_eq!(range(0, 4), [run(10, 3), run(40, 1)]);
        assert_eq!(range(1, 7), [run(11, 2), run(40, 2), run(100, 2)]);
        assert_eq!(range(3, 4), [run(40, 1)]);
        assert_eq!(range(5, 6), [run(100, 1)]);
        assert_eq!(range(7, 9), [run(102, 2)]);
        assert!(range(0, 0).is_empty() && range(4, 4).is_empty() && range(6, 5).is_empty());
    }

    #[test]
    fn runs_are_as_long_as_possible() {
        let run = |first, len| BlockRun { first: BlockId(first), len };
        let content = Content::new([run(10, 2), run(12, 1), run(5, 0), run(20, 1)], BlockId(100));
        assert_eq!(content.runs(5).collect::<Vec<_>>(), [run(10, 3), run(20, 1), run(100, 1)]);
    }
}
