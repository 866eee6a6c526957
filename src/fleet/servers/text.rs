//! What prompts say. The simulation knows which blocks texts share; a real server
//! wants tokens.

use crate::id::{BlockId, ConversationId};
use crate::request::{Content, Request};
use crate::rng::mix;
use std::collections::BTreeMap;

/// The token ids that made-up text is drawn from: no vocabulary is smaller, and
/// what lies below is special in many of them (assumed).
pub(crate) const TOKENS: std::ops::Range<u32> = 16..4096;

/// Text that sequences with the same shared blocks have in common after them.
const FORK: u64 = 0xF0_4B;

/// Most tokens that are remembered of what was said, 256 MiB of them (assumed: more
/// than all conversations that go on at a time have said). No event says when a
/// conversation ends, so those that have been silent longest are forgotten; if one
/// goes on, its answers so far are made up like any text, and its server misses them.
const MOST_SAID: usize = 1 << 26;

/// Writes prompts: the same block has the same text wherever it stands, and a
/// turn repeats what its conversation has said so far, real answers included.
#[derive(Debug)]
pub(super) struct Texts {
    block_size: u32,
    /// Makes texts of one run different from another's.
    key: u64,
    /// Prompt and answer of the last turn of conversations that may go on, with the
    /// number of that turn in the run.
    said: BTreeMap<ConversationId, (u64, Vec<u32>)>,
    /// Those conversations by that number.
    by_age: BTreeMap<u64, ConversationId>,
    turns: u64,
    /// Tokens in `said`, and the most.
    tokens: usize,
    most_tokens: usize,
}

impl Texts {
    pub(super) fn new(block_size: u32, key: u64) -> Self {
        Self {
            block_size,
            key,
            said: BTreeMap::new(),
            by_age: BTreeMap::new(),
            turns: 0,
            tokens: 0,
            most_tokens: MOST_SAID,
        }
    }

    /// The prompt of `request`.
    pub(super) fn prompt(&mut self, request: &Request) -> Vec<u32> {
        let mut prompt = match request.turn {
            0 => Vec::new(),
            _ => self.forget(request.conversation).unwrap_or_default(),
        };
        let length = request.prompt_tokens as usize;
        prompt.truncate(length);
        let from = u32::try_from(prompt.len()).expect("no longer than prompt_tokens");
        prompt.extend((from..request.prompt_tokens).map(|at| self.token(request, at)));
        prompt
    }

    /// The conversation has said `text`, prompt and answer.
    pub(super) fn hear(&mut self, conversation: ConversationId, text: Vec<u32>) {
        self.forget(conversation);
        self.tokens += text.len();
        self.by_age.insert(self.turns, conversation);
        self.said.insert(conversation, (self.turns, text));
        self.turns += 1;
        while self.tokens > self.most_tokens
            && let Some((_, silent)) = self.by_age.first_key_value()
        {
            self.forget(*silent);
        }
    }

    /// What a conversation has said, which is not remembered any more.
    fn forget(&mut self, conversation: ConversationId) -> Option<Vec<u32>> {
        let (turn, text) = self.said.remove(&conversation)?;
        self.by_age.remove(&turn);
        self.tokens -= text.len();
        Some(text)
    }

    fn token(&self, request: &Request, at: u32) -> u32 {
        token(self.key, &request.content, (at / self.block_size, at % self.block_size))
    }
}

/// The made-up token at an offset in a block of a sequence.
fn token(key: u64, content: &Content, (index, offset): (u32, u32)) -> u32 {
    let shared = content.shared_blocks();
    let BlockId(block) = match shared.checked_sub(1) {
        Some(last) if index == shared && offset < content.fork_tokens() => {
            BlockId(content.block(last).0 ^ FORK << 32)
        }
        _ => content.block(index),
    };
    let drawn = mix(mix(key ^ block).wrapping_add(u64::from(offset)));
    let span = u64::from(TOKENS.end - TOKENS.start);
    TOKENS.start + u32::try_from(drawn % span).expect("less than a u32")
}

/// Leading blocks, up to `most`, in which the made-up texts of two sequences agree:
/// those that they share, and further ones by chance. Where a shared text ends a
/// token or two before its block does, chance need not be great.
pub(crate) fn alike(
    (key, block_size): (u64, u32),
    one: &Content,
    other: &Content,
    most: u32,
) -> u32 {
    let text = |content: &Content, index: u32| -> Vec<u32> {
        (0..block_size).map(|offset| token(key, content, (index, offset))).collect()
    };
    let is_same = |index: &u32| {
        one.block(*index) == other.block(*index) || text(one, *index) == text(other, *index)
    };
    u32::try_from((0..most).take_while(is_same).count()).expect("at most `most`")
}

/// Which block a text is: the simulation's ids for what servers name otherwise.
#[derive(Debug, Default)]
pub(crate) struct BlockNames {
    by_text: BTreeMap<(Option<BlockId>, u64), BlockId>,
}

impl BlockNames {
    /// The block with `tokens` after `parent`, if it has a name.
    pub(crate) fn find(&self, parent: Option<BlockId>, tokens: &[u32]) -> Option<BlockId> {
        self.by_text.get(&(parent, digest(tokens))).copied()
    }

    /// Names the block with `tokens` after `parent`; the first name stays.
    pub(crate) fn name(
        &mut self,
        parent: Option<BlockId>,
        tokens: &[u32],
        block: BlockId,
    ) -> BlockId {
        *self.by_text.entry((parent, digest(tokens))).or_insert(block)
    }

    /// Names the full blocks of `text` as `request` does.
    pub(super) fn name_all(&mut self, request: &Request, text: &[u32], block_size: u32) {
        let mut parent = None;
        for (index, tokens) in (0..).zip(text.chunks_exact(block_size as usize)) {
            parent = Some(self.name(parent, tokens, request.content.block(index)));
        }
    }
}

/// Of a block's tokens; 64 bits are enough for blocks with one parent.
fn digest(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0, |state, &token| mix(state ^ u64::from(token)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestId;
    use crate::request::BlockRun;

    fn request(conversation: u32, turn: u32, prompt_tokens: u32, fork: u32) -> Request {
        let shared = BlockRun { first: BlockId(7), len: 2 };
        let private = BlockId(1 << 63 | u64::from(conversation) << 31);
        Request {
            id: RequestId(0),
            conversation: ConversationId(conversation),
            turn,
            prompt_tokens,
            output_tokens: 3,
            max_tokens: 3,
            priority: 0,
            content: Content::new([shared], private).with_fork_tokens(fork),
        }
    }

    #[test]
    fn texts_share_what_their_blocks_share_and_nothing_else() {
        let mut texts = Texts::new(8, 1);
        let [one, two] = [1, 2].map(|conversation| texts.prompt(&request(conversation, 0, 40, 3)));
        assert_eq!(one[..19], two[..19]);
        assert!((19..40).filter(|&at| one[at] == two[at]).count() < 3);
        assert!(one.iter().all(|token| TOKENS.contains(token)));
    }

    /// A shared text that ends one token before its block: one in 4,080 others agrees
    /// in that token.
    #[test]
    fn texts_agree_by_chance_where_one_token_decides() {
        let one = request(0, 0, 40, 7);
        let agrees = |conversation: &u32| {
            alike((1, 8), &one.content, &request(*conversation, 0, 40, 7).content, 5) > 2
        };
        let found: Vec<u32> = (1..20_000).filter(agrees).collect();
        assert!((1..15).contains(&found.len()), "{found:?}");
        let other = request(found[0], 0, 40, 7);
        let mut texts = Texts::new(8, 1);
        let [one, two] = [one, other].map(|request| texts.prompt(&request));
        assert_eq!((&one[..24], one[24..32] == two[24..32]), (&two[..24], false));
    }

    #[test]
    fn a_turn_repeats_what_was_said() {
        let mut texts = Texts::new(8, 1);
        let mut said = texts.prompt(&request(1, 0, 20, 0));
        said.extend([5, 6, 7]);
        texts.hear(ConversationId(1), said.clone());
        let next = texts.prompt(&request(1, 1, 40, 0));
        assert_eq!((&next[..23], next.len()), (&said[..], 40));
    }

    #[test]
    fn who_is_silent_longest_is_forgotten() {
        let mut texts = Texts { most_tokens: 60, ..Texts::new(8, 1) };
        let answer = [5, 6, 7];
        let hear = |texts: &mut Texts, conversation| {
            let mut said = texts.prompt(&request(conversation, 0, 20, 0));
            said.extend(answer);
            texts.hear(ConversationId(conversation), said);
        };
        hear(&mut texts, 1);
        hear(&mut texts, 2);
        // The first says something again.
        hear(&mut texts, 1);
        hear(&mut texts, 3);
        assert_eq!(texts.tokens, 46);
        let known = [1, 2, 3]
            .map(|conversation| texts.prompt(&request(conversation, 1, 40, 0))[20..23] == answer);
        assert_eq!(known, [true, false, true]);
        assert!(texts.said.is_empty() && texts.by_age.is_empty() && texts.tokens == 0);
    }

    #[test]
    fn a_block_is_its_text_and_all_before_it() {
        let (mut texts, mut names) = (Texts::new(8, 1), BlockNames::default());
        let request = request(1, 0, 40, 0);
        let text = texts.prompt(&request);
        names.name_all(&request, &text, 8);
        let mut parent = None;
        for (index, tokens) in (0..).zip(text.chunks_exact(8)) {
            let found = names.find(parent, tokens);
            assert_eq!(found, Some(request.content.block(index)));
            assert_eq!(names.find(Some(BlockId(999)), tokens), None);
            parent = found;
        }
    }
}
