//! Identifiers: small integers that index tables, one type per kind of thing.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident(u32), an index) => {
        id! { $(#[$doc])* $name(u32) }
        impl $name {
            /// As an index of a table.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $repr);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// What requests can be sent to, numbered from 0: a serving engine of the fleet, or,
    /// where its attention is data parallel, each of its ranks, engine by engine. A rank is
    /// a worker like any other to those who route and measure, with a queue and a cache of
    /// its own; those of an engine step together, and come and go together.
    WorkerId(u32), an index
}
id! {
    /// A request, numbered from 0 in the order in which the workload makes them.
    RequestId(u32), an index
}
id! {
    /// A conversation (or a trace session); its turns share it.
    ConversationId(u32), an index
}
id! {
    /// A block of tokens *together with everything before it*: two prompts that
    /// hold the same `BlockId` at some position agree on all tokens up to the
    /// end of that block. So a set of ids is a prefix tree, and a lookup needs
    /// no parent.
    BlockId(u64)
}

impl WorkerId {
    /// The worker at `index` of a list in order of id.
    #[expect(clippy::cast_possible_truncation, reason = "worker ids are u32")]
    pub const fn at(index: usize) -> Self {
        Self(index as u32)
    }
}

impl BlockId {
    /// The id `n` places after this one in its run.
    pub const fn offset(self, n: u32) -> Self {
        Self(self.0 + n as u64)
    }
}

/// Which rank of which worker a [`WorkerId`] stands for, for people: engines with
/// data-parallel attention are several ranks that step together (Dynamo's
/// `WorkerWithDpRank`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target {
    /// The engine, counted from 0.
    pub worker: u32,
    /// Its rank, from 0.
    pub rank: u32,
}
