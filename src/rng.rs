//! Random streams keyed by what they are for.
//!
//! A draw depends on the seed, its use, the conversation and the turn, never
//! on how many draws came before it elsewhere. So two policies, whose requests
//! interleave differently, still meet the same conversations.

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// The generator of every stream: documented as portable, unlike `StdRng`.
pub type Stream = Xoshiro256PlusPlus;

/// What a stream is drawn for. The discriminants are part of the results:
/// append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Use {
    /// Which starter text, how many turns: the shape of a conversation.
    Conversation = 1,
    /// Lengths of one turn's new prompt text and answer.
    Turn = 2,
    /// Time between an answer and the next turn.
    ThinkTime = 3,
    /// Jitter of the client's overhead.
    ClientOverhead = 4,
    /// Ties and sampling inside a routing policy (key: front end).
    Policy = 5,
    /// Delay and loss of events on their way to a router.
    Feed = 6,
    /// The texts that many conversations start from (key: text).
    Starter = 8,
    /// The gap before an arrival of an open loop (key: arrival).
    Arrival = 31,
    /// Phases with and without arrivals (key: phase).
    ArrivalPhase = 32,
    /// The copy of the shared prefixes that a row of a trace has (key: row).
    TraceRoot = 33,
    /// What a look-alike of a trace has (key: copy of a session).
    Lookalike = 34,
    /// How long a client waits.
    Patience = 35,
    /// How long the processes that tokenise work on a request.
    Tokenizer = 36,
    /// The priority of a conversation's requests.
    Priority = 37,
    /// How long a client that was refused waits before it sends again.
    Backoff = 38,
}

/// The stream for one `use`, `conversation` and `turn` under `seed`.
pub fn stream(seed: u64, usage: Use, conversation: u64, turn: u64) -> Stream {
    let mut state = seed;
    for key in [usage as u64, conversation, turn] {
        state = mix(state ^ mix(key.wrapping_add(0x9E37_79B9_7F4A_7C15)));
    }
    Stream::seed_from_u64(state)
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): every input bit reaches every output bit.
pub const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_are_pinned_and_distinct() {
        let first = |s, u, c, t| stream(s, u, c, t).next_u64();
        let base = first(7, Use::Turn, 1, 2);
        assert_eq!(base, first(7, Use::Turn, 1, 2));
        for other in [
            first(8, Use::Turn, 1, 2),
            first(7, Use::ThinkTime, 1, 2),
            first(7, Use::Turn, 2, 1),
            first(7, Use::Turn, 1, 3),
        ] {
            assert_ne!(base, other);
        }
    }
}
